//! Flame graphs of programs as they are shipped: Debian's own builds, under load, each in a container on an overlay
//! file system. How much of their stacks is whole; the pictures are those of `docs/flamegraphs.md`.

use std::{fs, path::Path, thread, time::Duration};

use anyhow::bail;
use ctrscope_tests::{
    Agent, Cable, Container, ContainerSpec, Overlay, binaries,
    measure::{Trial, measured},
    picture::{Quality, Shape, lacks_something},
    wait_until,
};
use serde_json::json;

use crate::{
    observe::{group, wait_seen},
    profile::{has_frame, query, record, stacks},
};

/// Names a directory for pictures, and for what is said of them.
const PICTURES: &str = "CTRSCOPE_FLAMEGRAPHS";
/// Why a test may skip itself; the list of expected skips has it.
pub(super) const NO_PROGRAMS: &str =
    "programs of Debian are not unpacked: `cargo xtask setup --accuracy` does that";
/// Part of the user stacks that may lack something.
pub(super) const INCOMPLETE: f64 = 0.01;
/// With one busy CPU of the two that program and load share this gives 400 to 900 samples.
const SECONDS: u32 = 10;
const HERTZ: u32 = 99;
/// Samples that a judgement rests on.
const FEWEST: u64 = 200;
/// Until a program has started, was warmed up, and its load has begun.
const PATIENCE: Duration = Duration::from_secs(120);

/// A program to record. All of its scripts are for the shell.
struct Program {
    name: &'static str,
    /// Prints its version.
    version: &'static str,
    /// Becomes the program.
    serve: &'static str,
    user: u32,
    /// A file that it reads: path and text.
    file: Option<(&'static str, &'static str)>,
    /// What runs in a container of its own, in the same network and on the same files; `None` where the program finds
    /// work by itself.
    load: Option<&'static str>,
    /// What the load says when it begins.
    begins: &'static str,
    /// CPU time that the program has used under load before it is recorded.
    warm: Duration,
    /// Runs in its container before it is recorded.
    before: Option<&'static str>,
    /// What stands in a frame of it.
    frame: &'static str,
}

const PROGRAM: Program = Program {
    name: "",
    version: "",
    serve: "",
    user: 0,
    file: None,
    load: None,
    begins: "",
    warm: Duration::from_secs(1),
    before: None,
    frame: "",
};

/// Asks again and again where the server is not there yet.
const REQUESTS: &str = "while :; do wrk -t 1 -c 8 -d 60s -H 'Accept-Encoding: gzip' http://127.0.0.1:8080/page/a || sleep 0.1; done";

/// Users that programs look themselves up in.
const USERS: &str = "root:x:0:0:root:/:/bin/sh\npostgres:x:1000:1000:postgres:/tmp:/bin/sh\n";
const GROUPS: &str = "root:x:0:\npostgres:x:1000:\n";

#[test]
fn nearly_all_stacks_of_redis_are_whole() {
    judge(&Program {
        name: "redis",
        version: "redis-server --version | cut -d ' ' -f 3",
        serve: "exec redis-server --save '' --bind 127.0.0.1 --dir /tmp",
        load: Some(
            "until redis-cli ping; do sleep 0.1; done; exec redis-benchmark -l -q -n 100000 -c 16 -P 16 \
             -t set,get,incr,lpush,rpop,sadd,hset,zadd,zpopmin,lrange_100,mset",
        ),
        begins: "PONG",
        frame: "processCommand",
        ..PROGRAM
    });
}

#[test]
fn nearly_all_stacks_of_postgres_are_whole() {
    judge(&Program {
        name: "postgres",
        version: "/usr/lib/postgresql/*/bin/postgres --version",
        serve: "PATH=$(echo /usr/lib/postgresql/*/bin):$PATH; initdb -D /tmp/data -A trust --no-sync >&2; \
                exec postgres -D /tmp/data -k /tmp -c listen_addresses= -c fsync=off",
        user: 1000,
        load: Some(
            "PATH=$(echo /usr/lib/postgresql/*/bin):$PATH; \
             until pgbench -q -i -s 3 -h /tmp postgres; do sleep 0.2; done; \
             exec pgbench -h /tmp -T 300 -c 4 -b tpcb-like@1 -b select-only@3 postgres",
        ),
        begins: "end.",
        frame: "PostgresMain",
        ..PROGRAM
    });
}

#[test]
fn nearly_all_stacks_of_nginx_are_whole() {
    judge(&Program {
        name: "nginx",
        version: "nginx -v 2>&1 | cut -d / -f 2",
        serve: "exec nginx -e stderr -p /tmp -c /tmp/nginx.conf",
        file: Some(("tmp/nginx.conf", include_str!("flamegraphs/nginx.conf"))),
        load: Some(REQUESTS),
        frame: "deflate",
        ..PROGRAM
    });
}

#[test]
fn nearly_all_stacks_of_python_are_whole() {
    judge(&Program {
        name: "python",
        version: "python3 --version",
        serve: "exec python3 /tmp/work.py",
        file: Some(("tmp/work.py", include_str!("flamegraphs/work.py"))),
        frame: "(tmp/work.py:",
        ..PROGRAM
    });
}

#[test]
fn nearly_all_stacks_of_ruby_are_whole() {
    judge(&Program {
        name: "ruby",
        version: "ruby --version | cut -d ' ' -f 2",
        serve: "exec ruby /tmp/work.rb",
        file: Some(("tmp/work.rb", include_str!("flamegraphs/work.rb"))),
        frame: "rb_vm_exec",
        ..PROGRAM
    });
}

/// Code of V8 keeps frame pointers, its own code inside the program too.
#[test]
fn nearly_all_stacks_of_node_are_whole() {
    judge(&Program {
        name: "node",
        version: "node --version",
        serve: "exec node --perf-basic-prof /tmp/work.js",
        file: Some(("tmp/work.js", include_str!("flamegraphs/work.js"))),
        load: Some(REQUESTS),
        warm: Duration::from_secs(3),
        frame: "work.js",
        ..PROGRAM
    });
}

/// Without the option, the compilers of the virtual machine use the register for something else.
#[test]
fn nearly_all_stacks_of_java_with_frame_pointers_are_whole() {
    judge(&Program {
        name: "java",
        version: "/usr/lib/jvm/default-java/bin/java --version | head -n 1",
        serve: "exec /usr/lib/jvm/default-java/bin/java -XX:+PreserveFramePointer -Xmx256m \
                -Dsun.net.httpserver.nodelay=true /tmp/Work.java",
        file: Some(("tmp/Work.java", include_str!("flamegraphs/Work.java"))),
        load: Some(REQUESTS),
        warm: Duration::from_secs(10),
        before: Some("exec /usr/lib/jvm/default-java/bin/jcmd 1 Compiler.perfmap"),
        frame: "Work.plant",
        ..PROGRAM
    });
}

/// Records a program under load, and judges its stacks.
fn judge(program: &Program) {
    measured(|trial| {
        let Some(lower) = binaries::programs() else {
            trial.skip(NO_PROGRAMS);
            return;
        };
        record_program(trial, program, &lower);
    });
}

fn shell(script: &str) -> [&str; 3] {
    ["/bin/sh", "-c", script]
}

fn record_program(trial: &Trial, program: &Program, lower: &Path) {
    let agent = Agent::start(&[]).unwrap();
    // In the order in which they must be there: the containers go first.
    let root = Overlay::over(lower).unwrap();
    let network = Cable::new().unwrap();
    let group = group();
    write(&root.path().join("etc/passwd"), USERS);
    write(&root.path().join("etc/group"), GROUPS);
    fs::create_dir(root.path().join("tmp")).unwrap();
    if let Some((path, text)) = program.file {
        write(&root.path().join(path), text);
    }
    let start = |name: &str, script: &str| {
        let spec = ContainerSpec::new(name, &shell(script))
            .root(&root.path())
            .user(program.user)
            .network(&network.namespace(0));
        Container::start(&group, &spec).unwrap()
    };
    let container = start(program.name, program.serve);
    let load = program.load.map(|script| start("load", script));
    wait_seen(&agent, &container);
    wait_warm(program, &container, load.as_ref());
    let version = container.execute(&shell(program.version)).unwrap();
    if let Some(script) = program.before {
        container.execute(&shell(script)).unwrap();
    }
    // The tables of a program are read when it is first recorded.
    record(&agent, &container, "folded", 1);
    let watch = trial.watch(agent.pid(), &group);
    let (svg, folded) = record_both(&agent, &container, SECONDS, HERTZ);
    watch.end();

    let quality = Quality::of(&svg).unwrap_or_else(|| panic!("no account in {svg}"));
    let shape = Shape::of(stacks(&folded));
    println!("{}: {} {quality:?} {shape:?}", program.name, version.trim());
    for (stack, count) in stacks(&folded).filter(|(stack, _)| lacks_something(stack)) {
        println!("lacks something, {count} times: {stack}");
    }
    assert!(
        quality.samples >= FEWEST,
        "only {} samples: {}{}",
        quality.samples,
        container.stderr(),
        load.map_or_else(String::new, |load| load.stderr()),
    );
    assert!(
        has_frame(&folded, |frame| frame.contains(program.frame)),
        "no frame is {}:\n{folded}",
        program.frame
    );
    let incomplete = quality.incomplete() as f64 / (quality.samples as f64 * shape.with_user());
    trial.at_most("user stacks that lack something", incomplete, INCOMPLETE);

    let Some(directory) = std::env::var_os(PICTURES) else {
        return;
    };
    let path = |end: &str| Path::new(&directory).join(format!("{}.{end}", program.name));
    let facts = json!({
        "program": program.name,
        "version": version.trim(),
        "seconds": SECONDS,
        "samples": quality.samples,
        "lost": quality.lost,
        "named_percent": quality.named_percent,
        "complete": 1.0 - incomplete,
        "lacking": quality.lacking(),
        "depth": shape.depth(),
        "deepest": shape.deepest,
        "begins": shape.begins(),
    });
    write(&path("json"), &facts.to_string());
    write(&path("folded"), &folded);
    write(&path("svg"), &svg);
}

/// Makes two recordings at once, one for the picture and one for the shape of the stacks.
pub(super) fn record_both(
    agent: &Agent,
    container: &Container,
    seconds: u32,
    hertz: u32,
) -> (String, String) {
    let query = query(agent, container, seconds);
    let record = |format: &str| {
        let path = format!("/api/v1/profile?format={format}&frequency={hertz}&{query}");
        let answer = agent.get_slow(&path, PATIENCE).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text()
    };
    thread::scope(|scope| {
        let folded = scope.spawn(|| record("folded"));
        (record("svg"), folded.join().unwrap())
    })
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Waits until the load has begun and the program has worked for it.
fn wait_warm(program: &Program, container: &Container, load: Option<&Container>) {
    let said = |container: &Container| container.stdout() + &container.stderr();
    let check_alive = |container: &Container| {
        if !container.is_alive() {
            bail!("{} has ended: {}", container.name(), said(container));
        }
        Ok(())
    };
    let mut base = None;
    wait_until(PATIENCE, "a program under load", || {
        check_alive(container)?;
        if let Some(load) = load {
            check_alive(load)?;
            if !said(load).contains(program.begins) {
                return Ok(None);
            }
        }
        let used = container.cpu_usage_ns()?;
        let since = Duration::from_nanos(used - *base.get_or_insert(used));
        Ok((since >= program.warm).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}: {}", load.map(said).unwrap_or_default()));
}
