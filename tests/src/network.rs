//! Networks of the tests: two network namespaces and a cable between them.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result, bail};

/// Address of each end, in a network that is for such tests (RFC 2544).
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 18, 0, 1), Ipv4Addr::new(198, 18, 0, 2)];

/// Two network namespaces that a cable connects. Dropping it removes them.
pub struct Cable {
    ends: [String; 2],
}

impl Cable {
    /// Makes the namespaces and the cable.
    ///
    /// # Errors
    ///
    /// There is no `ip`, or the kernel has no such interfaces.
    pub fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = |end: char| format!("ctrscope-{}-{number}{end}", std::process::id());
        // From here on a failure removes what there is.
        let cable = Self {
            ends: [name('a'), name('b')],
        };
        let [a, b] = [cable.ends[0].as_str(), cable.ends[1].as_str()];
        ip(&["netns", "add", a])?;
        ip(&["netns", "add", b])?;
        ip(&[
            "-n", a, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", b,
        ])?;
        for (end, address) in cable.ends.iter().zip(ADDRESSES) {
            let address = format!("{address}/24");
            ip(&["-n", end, "addr", "add", &address, "dev", "eth0"])?;
            ip(&["-n", end, "link", "set", "eth0", "up"])?;
            ip(&["-n", end, "link", "set", "lo", "up"])?;
        }
        Ok(cable)
    }

    /// The file of an end's namespace, 0 or 1.
    #[must_use]
    pub fn namespace(&self, end: usize) -> PathBuf {
        Path::new("/run/netns").join(&self.ends[end])
    }

    /// The address of an end.
    #[must_use]
    pub fn address(&self, end: usize) -> IpAddr {
        ADDRESSES[end].into()
    }

    /// Longest packet that an end takes; one that is longer is dropped there.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn set_mtu(&self, end: usize, bytes: u32) -> Result<()> {
        let bytes = bytes.to_string();
        ip(&["-n", &self.ends[end], "link", "set", "eth0", "mtu", &bytes])
    }

    /// Runs a command of the shell at an end.
    ///
    /// # Errors
    ///
    /// It failed.
    pub fn shell(&self, end: usize, script: &str) -> Result<()> {
        ip(&["netns", "exec", &self.ends[end], "bash", "-c", script])
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for end in &self.ends {
            if let Err(error) = ip(&["netns", "delete", end]) {
                eprintln!("network namespace left behind: {error:#}");
            }
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("cannot run ip (package iproute2)")?;
    if !output.status.success() {
        bail!(
            "ip {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
