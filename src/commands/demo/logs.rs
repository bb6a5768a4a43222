//! The demo's records: realistic access logs over four hours, the same for the same number.

/// One access log.
pub(super) struct Log {
    /// Event time, milliseconds UTC.
    pub(super) event_ms: i64,
    /// Who: the record's key.
    pub(super) user: String,
    /// The payload.
    pub(super) json: String,
}

/// Generates access logs.
pub(super) struct AccessLogs {
    start_ms: i64,
    seed: u64,
}

const HOUR_MS: i64 = 3_600_000;
const HOSTS: [&str; 3] = ["www.example.org", "api.example.org", "static.example.org"];
const METHODS: [&str; 5] = ["GET", "GET", "GET", "POST", "PUT"];
const PATHS: [&str; 6] = ["/", "/search", "/items/4711", "/cart", "/api/v1/orders", "/login"];
const AGENTS: [&str; 3] = [
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148",
    "curl/8.11.0",
];

impl AccessLogs {
    /// Logs of the four full hours before `now_ms`.
    pub(super) fn new(now_ms: i64) -> Self {
        Self { start_ms: now_ms / HOUR_MS * HOUR_MS - 4 * HOUR_MS, seed: 0x5117_5703 }
    }

    /// Log number `number` of `total`: times rise over the four hours, a few come late.
    pub(super) fn line(&mut self, number: u64, total: u64) -> Log {
        let share = number as f64 / total.max(1) as f64;
        let late_ms = if self.next(50) == 0 { self.next(120_000) as i64 } else { 0 };
        let event_ms = (self.start_ms + (share * 4.0 * HOUR_MS as f64) as i64 - late_ms).max(self.start_ms);
        let user = format!("user-{:05}", self.next(20_000));
        let status = [200, 200, 200, 200, 200, 301, 304, 404, 500][self.next(9)];
        let json = format!(
            r#"{{"id":{number},"time":{event_ms},"host":"{host}","ip":"10.{a}.{b}.{c}","user":"{user}","method":"{method}","path":"{path}","status":{status},"bytes":{bytes},"seconds":{millis:.3},"referer":"https://{host}/","agent":"{agent}","geo":{{"country":"{country}","asn":{asn}}}}}"#,
            host = HOSTS[self.next(HOSTS.len())],
            a = self.next(256),
            b = self.next(256),
            c = self.next(256),
            method = METHODS[self.next(METHODS.len())],
            path = PATHS[self.next(PATHS.len())],
            bytes = self.next(90_000),
            millis = self.next(3_000) as f64 / 1000.0,
            agent = AGENTS[self.next(AGENTS.len())],
            country = ["DE", "FR", "JP", "US", "BR"][self.next(5)],
            asn = 1_000 + self.next(60_000),
        );
        Log { event_ms, user, json }
    }

    /// A number below `bound`, from a fixed sequence (SplitMix64).
    fn next(&mut self, bound: usize) -> usize {
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}
