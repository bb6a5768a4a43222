//! A token bucket: so many records a second, and no burst above a tenth of that.

/// Lets records through at a rate. Clock-free: it is told the time.
#[derive(Clone, Debug)]
pub struct Rate {
    per_second: u64,
    /// Thousandths of a record that may go now.
    tokens: u64,
    last_ms: Option<i64>,
}

impl Rate {
    /// At most `per_second` records (at least 1) in any second, a burst of a tenth included.
    pub fn new(per_second: u64) -> Self {
        Self { per_second: per_second.max(1), tokens: 0, last_ms: None }
    }

    /// Takes one record at `now_ms`, monotonic; or says in how many milliseconds there is one.
    pub fn take(&mut self, now_ms: i64) -> Result<(), u64> {
        let most = (self.per_second * 100).max(1_000);
        self.tokens = match self.last_ms {
            // A record a millisecond is `per_second / 1000` records, so `per_second` thousandths.
            Some(last) => {
                let passed = now_ms.saturating_sub(last).max(0).unsigned_abs();
                self.tokens.saturating_add(passed.saturating_mul(self.per_second)).min(most)
            }
            None => 1_000,
        };
        self.last_ms = Some(now_ms);
        if self.tokens >= 1_000 {
            self.tokens -= 1_000;
            return Ok(());
        }
        Err((1_000 - self.tokens).div_ceil(self.per_second).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the rate holds over any time. Method: a clock that jumps as it is told.
    #[test]
    fn so_many_pass_and_no_more() {
        for per_second in [1, 3, 50, 1_000, 100_000] {
            let mut rate = Rate::new(per_second);
            let (mut now_ms, mut passed) = (0_i64, 0_u64);
            while now_ms < 10_000 {
                match rate.take(now_ms) {
                    Ok(()) => passed += 1,
                    Err(wait_ms) => now_ms += i64::try_from(wait_ms).expect("small"),
                }
            }
            // Those of the last millisecond may still wait.
            let due = per_second * 10;
            assert!((due - per_second / 1_000..=due + 1 + per_second / 10).contains(&passed), "{per_second}: {passed}");
        }
    }

    #[test]
    fn a_pause_gives_no_more_than_a_tenth_of_a_second() {
        let mut rate = Rate::new(100);
        while rate.take(0).is_ok() {}
        let burst = (0..1_000).filter(|_| rate.take(60_000).is_ok()).count();
        assert_eq!(burst, 10);
    }
}
