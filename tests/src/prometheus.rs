//! A Prometheus server that scrapes the agent under test.

use std::{
    fs::{self, File},
    io::ErrorKind,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::{Metrics, binaries, http, wait_until};

const START_PATIENCE: Duration = Duration::from_secs(60);
const REQUEST_PATIENCE: Duration = Duration::from_secs(30);

/// A running server. Dropping it ends it and removes what it stored.
pub struct Prometheus {
    child: Child,
    address: SocketAddr,
    directory: TempDir,
}

impl Prometheus {
    /// Starts one on a free port that scrapes `target` every two seconds; `None` where there is none.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub fn start(target: SocketAddr) -> Result<Option<Self>> {
        let directory = TempDir::with_prefix("ctrscope-prometheus-")?;
        let configuration = directory.path().join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 2s, scrape_timeout: 2s}}\n\
             scrape_configs: [{{job_name: ctrscope, static_configs: [{{targets: [\"{target}\"]}}]}}]\n"
        );
        fs::write(&configuration, text)?;
        let log = File::create(directory.path().join("log"))?;
        let started = Command::new(binaries::prometheus("prometheus"))
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.path().join("data").display()
            ))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn();
        let child = match started {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            started => started.context("cannot start prometheus")?,
        };
        let mut server = Self {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            directory,
        };
        server.address = wait_until(START_PATIENCE, "address of prometheus", || {
            if let Some(status) = server.child.try_wait()? {
                bail!("prometheus ended at its start: {status}: {}", server.log());
            }
            Ok(listens_at(&server.log()))
        })?;
        // It listens before its storage is open, and refuses queries until then.
        wait_until(START_PATIENCE, "prometheus to be ready", || {
            if let Some(status) = server.child.try_wait()? {
                bail!("prometheus ended at its start: {status}: {}", server.log());
            }
            let answer = http::get(server.address, "/-/ready", REQUEST_PATIENCE);
            Ok(answer
                .is_ok_and(|answer| answer.status == 200)
                .then_some(()))
        })?;
        Ok(Some(server))
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// The value of a query with one result; `None` while it has none.
    ///
    /// # Errors
    ///
    /// It refuses the query, or the result is not one number.
    pub fn query(&self, query: &str) -> Result<Option<f64>> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let path = format!("/api/v1/query?query={encoded}");
        let answer = http::get(self.address, &path, REQUEST_PATIENCE)?;
        let json: Value = serde_json::from_slice(&answer.body)
            .with_context(|| format!("{query}: {} {}", answer.status, answer.text()))?;
        if json["status"] != "success" {
            bail!("{query}: {json}");
        }
        let results = json["data"]["result"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        match results {
            [] => Ok(None),
            [one] => {
                let text = one["value"][1]
                    .as_str()
                    .context("a result without a value")?;
                Ok(Some(text.parse()?))
            }
            several => bail!("{query} has {} results", several.len()),
        }
    }

    /// Its own metrics.
    ///
    /// # Errors
    ///
    /// No answer.
    pub fn own_metrics(&self) -> Result<Metrics> {
        let answer = http::get(self.address, "/metrics", REQUEST_PATIENCE)?;
        Ok(Metrics::parse(&answer.text()))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The port that it got, from its log. Of two lines that say where it listens, the first repeats what was
/// asked for.
fn listens_at(log: &str) -> Option<SocketAddr> {
    let addresses = log.lines().filter_map(|line| {
        let (_, rest) = line.split_once("address=")?;
        rest.split_whitespace().next()?.parse::<SocketAddr>().ok()
    });
    addresses.into_iter().find(|address| address.port() != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_read_from_the_log() {
        // Prometheus 2.42.
        let log = "\
ts=2026-11-27T20:03:00.688Z caller=web.go:503 level=info component=web msg=\"Start listening for connections\" address=127.0.0.1:0
ts=2026-11-27T20:03:00.705Z caller=tls_config.go:232 level=info component=web msg=\"Listening on\" address=127.0.0.1:36637
";
        assert_eq!(
            listens_at(log),
            Some(SocketAddr::from(([127, 0, 0, 1], 36637)))
        );
        assert_eq!(listens_at(log.lines().next().unwrap()), None);
    }
}
