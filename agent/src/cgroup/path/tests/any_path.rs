//! What holds for any path, made of pieces by chance.

use super::*;

/// xorshift64: the same sequence in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

const PIECES: [&str; 34] = [
    "/",
    "/",
    "/",
    "//",
    "docker",
    "docker-",
    ".scope",
    ".service",
    ".slice",
    "ID",
    "INNER",
    "kubepods",
    "pod",
    "UID",
    "U_I_D",
    "-",
    ":",
    "cri-containerd",
    "libpod-",
    "conmon-",
    "lxc",
    "lxc.payload.",
    "machine-",
    "machine.slice",
    "\\x2d",
    "\\x",
    "..",
    "ecs",
    "é",
    "\u{fffd}",
    "\n",
    "buildkit",
    "_",
    "0",
];

#[test]
fn the_owner_of_any_path_is_a_prefix_of_it() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..50_000 {
        let count = random.below(14);
        let path: String = (0..count)
            .map(|_| expand(PIECES[random.below(PIECES.len())]))
            .collect();
        let found = identify(&path);
        assert!(path.starts_with(&found.owner_path), "{path}");
        let rest = &path[found.owner_path.len()..];
        assert!(rest.is_empty() || rest.starts_with('/'), "{path}");
        if found.kind != Kind::Cgroup {
            let own = identify(&found.owner_path);
            assert_eq!(own.entity_key, found.entity_key, "{path}");
        }
    }
}

#[test]
fn child_cgroups_belong_to_their_container() {
    let containers = [
        "/docker/ID",
        "/system.slice/docker-ID.scope",
        "/kubepods/burstable/podUID/ID",
        "/machine.slice/libpod-ID.scope",
        "/lxc.payload.web",
        "/machine.slice/machine-web.scope",
        "/ecs/shop/TASK/cd189a933e5849daa93386466019ab50-2495160603",
    ];
    let children = [
        "container",
        "init.scope",
        "system.slice",
        "cron.service",
        "user.slice",
        "kubepods",
        "podUID",
        "libpod-conmon-INNER.scope",
        "var-INNER.mount",
        "a:b",
        "x-1",
        "..x",
    ];
    let mut random = Random(42);
    for template in containers {
        let own = identify(&expand(template));
        for _ in 0..500 {
            let mut path = expand(template);
            for _ in 0..random.below(6) {
                path.push('/');
                path.push_str(&expand(children[random.below(children.len())]));
            }
            let child = identify(&path);
            assert_eq!(child.entity_key, own.entity_key, "{path}");
            assert_eq!(child.owner_path, own.owner_path, "{path}");
            assert_eq!(child.name, own.name, "{path}");
        }
    }
}
