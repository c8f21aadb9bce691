//! Limits as Linux takes them, and as they stand in the description that a container was made of:
//! `config.json` of the OCI runtime specification
//! (<https://github.com/opencontainers/runtime-spec/blob/v1.2.0/config-linux.md>).

use serde::Deserialize;

use crate::snapshot::Resources;

/// Shares of a core (`SharesPerCPU` of `pkg/kubelet/cm/helpers_linux.go` of Kubernetes), and those that
/// stand for no request: the least that a kernel takes.
const SHARES_OF_A_CORE: f64 = 1_024.0;
const NO_SHARES: i64 = 2;
/// Of CFS bandwidth control, microseconds, where none is said.
const DEFAULT_PERIOD: i64 = 100_000;

/// `linux.resources`. 0 and less is none.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(super) struct LinuxResources {
    #[serde(default)]
    pub(super) cpu: Option<Cpu>,
    #[serde(default)]
    pub(super) memory: Option<Memory>,
    #[serde(default)]
    pub(super) unified: Option<Unified>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(super) struct Cpu {
    pub(super) shares: Option<i64>,
    pub(super) quota: Option<i64>,
    pub(super) period: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(super) struct Memory {
    pub(super) limit: Option<i64>,
}

/// Files of cgroup v2. The kubelet puts a container's memory request there, where its feature `MemoryQoS`
/// is on; nobody else says it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(super) struct Unified {
    #[serde(rename = "memory.min")]
    pub(super) memory_min: Option<String>,
}

#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    linux: Option<Linux>,
}

#[derive(Deserialize)]
struct Linux {
    #[serde(default)]
    resources: Option<LinuxResources>,
}

#[derive(Deserialize)]
struct Info {
    #[serde(rename = "runtimeSpec", default)]
    runtime_spec: Option<Spec>,
}

impl LinuxResources {
    /// Of a `config.json`.
    pub(super) fn of_spec(json: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Spec>(json).ok()?.linux?.resources
    }

    /// Of what containerd and CRI-O say of a container when they are asked to be verbose.
    pub(super) fn of_info(json: &[u8]) -> Option<Self> {
        let info: Info = serde_json::from_slice(json).ok()?;
        info.runtime_spec?.linux?.resources
    }

    /// In cores and bytes.
    pub(super) fn resources(&self) -> Resources {
        let cpu = self.cpu.clone().unwrap_or_default();
        let memory = self.memory.clone().unwrap_or_default();
        let unified = self.unified.as_ref();
        let minimum = unified.and_then(|files| files.memory_min.as_ref()?.parse().ok());
        Resources {
            cpu_request_cores: cpu.shares.and_then(cores_of_shares),
            cpu_limit_cores: cpu.quota.and_then(|quota| cores(quota, cpu.period)),
            memory_request_bytes: minimum.and_then(bytes),
            memory_limit_bytes: memory.limit.and_then(bytes),
        }
    }
}

/// A CPU request.
pub(super) fn cores_of_shares(shares: i64) -> Option<f64> {
    (shares > NO_SHARES).then(|| shares as f64 / SHARES_OF_A_CORE)
}

/// A CPU limit.
pub(super) fn cores(quota: i64, period: Option<i64>) -> Option<f64> {
    let period = period.filter(|&period| period > 0);
    (quota > 0).then(|| quota as f64 / period.unwrap_or(DEFAULT_PERIOD) as f64)
}

/// Memory.
pub(super) fn bytes(bytes: i64) -> Option<u64> {
    u64::try_from(bytes).ok().filter(|&bytes| bytes > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hostile::cases;

    // runc 1.1, by containerd 1.6, shortened.
    const SPEC: &str = r#"{"ociVersion":"1.0.2","process":{"user":{"uid":0},"args":["/workload"]},"linux":{"resources":{"devices":[{"allow":false,"access":"rwm"}],"memory":{"limit":67108864},"cpu":{"shares":512,"quota":150000,"period":100000}},"cgroupsPath":"/kubepods/burstable/podx/y"}}"#;

    #[test]
    fn limits_are_in_cores_and_bytes() {
        let expected = Resources {
            cpu_request_cores: Some(0.5),
            cpu_limit_cores: Some(1.5),
            memory_request_bytes: None,
            memory_limit_bytes: Some(64 << 20),
        };
        let of_spec = LinuxResources::of_spec(SPEC.as_bytes()).unwrap();
        assert_eq!(of_spec.resources(), expected);
        let info = format!(r#"{{"pid":7,"config":{{}},"runtimeSpec":{SPEC}}}"#);
        let of_info = LinuxResources::of_info(info.as_bytes()).unwrap();
        assert_eq!(of_info, of_spec);
    }

    #[test]
    fn what_stands_for_none_is_none() {
        for json in [
            r#"{"linux":{"resources":{}}}"#,
            r#"{"linux":{"resources":{"cpu":null,"memory":null,"unified":null}}}"#,
            r#"{"linux":{"resources":{"cpu":{"shares":2,"quota":-1},"memory":{"limit":-1}}}}"#,
            r#"{"linux":{"resources":{"cpu":{"shares":0,"quota":0,"period":0},"memory":{"limit":0}}}}"#,
        ] {
            let found = LinuxResources::of_spec(json.as_bytes()).unwrap();
            assert_eq!(found.resources(), Resources::default(), "{json}");
        }
        for json in [
            "",
            "{}",
            "null",
            r#"{"linux":null}"#,
            r#"{"linux":{"resources":7}}"#,
        ] {
            assert_eq!(LinuxResources::of_spec(json.as_bytes()), None, "{json}");
            assert_eq!(LinuxResources::of_info(json.as_bytes()), None, "{json}");
        }
    }

    #[test]
    fn a_memory_request_is_where_the_kubelet_puts_it() {
        let json = r#"{"linux":{"resources":{"unified":{"memory.min":"4096","memory.high":"9"}}}}"#;
        let found = LinuxResources::of_spec(json.as_bytes()).unwrap();
        assert_eq!(found.resources().memory_request_bytes, Some(4_096));
        assert_eq!(cores(25_000, Some(50_000)), Some(0.5));
        assert_eq!(cores(50_000, None), Some(0.5));
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn any_json_gives_nothing_or_sane_limits(
            shares in any::<i64>(),
            quota in any::<i64>(),
            period in any::<i64>(),
            limit in any::<i64>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let json = format!(
                r#"{{"linux":{{"resources":{{"cpu":{{"shares":{shares},"quota":{quota},"period":{period}}},"memory":{{"limit":{limit}}}}}}}}}"#
            );
            let found = LinuxResources::of_spec(json.as_bytes()).unwrap().resources();
            for cores in [found.cpu_request_cores, found.cpu_limit_cores].into_iter().flatten() {
                prop_assert!(cores.is_finite() && cores > 0.0);
            }
            prop_assert_eq!(found.memory_limit_bytes.is_some(), limit > 0);
            prop_assert_eq!(LinuxResources::of_spec(&json.as_bytes()[..cut.index(json.len())]), None);
        }
    }
}
