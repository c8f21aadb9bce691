//! What the commands say of a container that computes, on a machine that has the time for it.

use ctrscope_tests::Agent;

use crate::{
    cli::{Source, burning, cores, latencies},
    observe::{group, wait_seen},
};

/// Of a CPU that nobody else uses.
const LEAST_CORES: f64 = 0.2;
/// Of the second that was asked for.
const LEAST_SECONDS: f64 = 0.5;

#[test]
fn commands_say_how_much_a_container_computes() {
    let group = group();
    let container = burning(&group);
    let agent = Agent::start(&[]).unwrap();
    wait_seen(&agent, &container);
    for source in [Source::Daemon(&agent), Source::Local] {
        let cores = cores(&source, &container);
        println!("{cores} cores");
        assert!(cores > LEAST_CORES, "{cores}");
        let json = latencies(&source, &container);
        assert!(json["count"].as_u64().unwrap() > 0, "{json}");
        assert!(json["seconds"].as_f64().unwrap() > LEAST_SECONDS, "{json}");
        let path = tempfile::NamedTempFile::with_suffix(".svg").unwrap();
        let path = path.path().to_str().unwrap();
        source.stdout(&[
            "flame",
            "-c",
            json["container"].as_str().unwrap(),
            "--seconds",
            "2",
            "-o",
            path,
        ]);
        assert!(std::fs::read_to_string(path).unwrap().contains("hot_fifty"));
    }
}
