//! What the HTTP server counts about itself.

use prometheus::{Gauge, IntCounterVec, Opts, Registry, TextEncoder};

use super::definitions::METRICS;

/// Counters of the HTTP server, in a registry of their own. Clones share it.
#[derive(Clone, Debug)]
pub struct ServerMetrics {
    registry: Registry,
    requests: IntCounterVec,
    scrape_seconds: Gauge,
}

/// Names of the metrics in the registry.
pub(crate) const REQUESTS: &str = "ctrscope_http_requests_total";
pub(crate) const SCRAPE_SECONDS: &str = "ctrscope_scrape_seconds";

impl ServerMetrics {
    /// Makes the registry.
    ///
    /// # Errors
    ///
    /// A name or label that the format does not allow; the names are constants, so a test sees it.
    pub fn new() -> Result<Self, prometheus::Error> {
        let opts = |name: &str| {
            let metric = METRICS.iter().find(|metric| metric.name == name);
            Opts::new(name, metric.map_or("", |metric| metric.help))
        };
        let registry = Registry::new();
        let requests = IntCounterVec::new(opts(REQUESTS), &["path", "code"])?;
        let scrape_seconds = Gauge::with_opts(opts(SCRAPE_SECONDS))?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(scrape_seconds.clone()))?;
        Ok(Self {
            registry,
            requests,
            scrape_seconds,
        })
    }

    /// Counts a request; `path` is the route, never what the client wrote.
    pub fn count_request(&self, path: &str, code: u16) {
        self.requests
            .with_label_values(&[path, &code.to_string()])
            .inc();
    }

    /// Notes how long a scrape took, for the next one.
    pub fn set_scrape_seconds(&self, seconds: f64) {
        self.scrape_seconds.set(seconds);
    }

    /// Its metrics as text.
    pub(crate) fn text(&self) -> String {
        let encoded = TextEncoder::new().encode_to_string(&self.registry.gather());
        encoded.unwrap_or_else(|error| {
            tracing::warn!(%error, "the server's own metrics were left out");
            String::new()
        })
    }
}
