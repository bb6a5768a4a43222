//! The failpoints themselves: count, and abort at the one that was asked for. In a release build they are nothing.

use super::Effect;

/// Does `work`, which is `effect`.
pub(super) fn around<T>(effect: Effect, work: impl FnOnce() -> T) -> T {
    reach(effect, Side::Before);
    let outcome = work();
    reach(effect, Side::After);
    outcome
}

/// Waits for `work`, which is `effect` and begins when it is polled.
pub(super) async fn around_async<F: Future>(effect: Effect, work: F) -> F::Output {
    reach(effect, Side::Before);
    let outcome = work.await;
    reach(effect, Side::After);
    outcome
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Before,
    /// Whatever came of it.
    After,
}

#[cfg(not(debug_assertions))]
#[inline(always)]
const fn reach(_: Effect, _: Side) {}

#[cfg(debug_assertions)]
use told::reach;

#[cfg(debug_assertions)]
mod told {
    use super::{Effect, Side};
    use std::fs::File;
    use std::io::{self, Write};
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{LazyLock, Mutex, PoisonError};

    /// What the environment told this process.
    struct Told {
        abort: Option<(Effect, Side, u64)>,
        reached: AtomicU64,
        effects: Option<Mutex<File>>,
    }

    static TOLD: LazyLock<Told> = LazyLock::new(|| {
        let abort = std::env::var("SILTSTONE_FAILPOINT").ok().map(|text| {
            parse(&text)
                .unwrap_or_else(|| refuse(&format!("SILTSTONE_FAILPOINT={text} is no <effect>:<before|after>:<n>")))
        });
        let effects = std::env::var_os("SILTSTONE_EFFECTS").map(|path| {
            let opened = File::options().create(true).append(true).open(path);
            Mutex::new(opened.unwrap_or_else(|error| refuse(&format!("SILTSTONE_EFFECTS: {error}"))))
        });
        Told { abort, reached: AtomicU64::new(0), effects }
    });

    /// Ends the process: a test that asks for what there is not must not pass.
    fn refuse(what: &str) -> ! {
        drop(writeln!(io::stderr(), "siltstone: {what}"));
        std::process::exit(2)
    }

    fn parse(text: &str) -> Option<(Effect, Side, u64)> {
        let mut parts = text.split(':');
        let name = parts.next()?;
        let effect = Effect::ALL.iter().copied().find(|effect| effect.name() == name)?;
        let side = match parts.next()? {
            "before" => Side::Before,
            "after" => Side::After,
            _ => return None,
        };
        let number = parts.next()?.parse().ok().filter(|&number| number > 0)?;
        parts.next().is_none().then_some((effect, side, number))
    }

    pub(super) fn reach(effect: Effect, side: Side) {
        let told = &*TOLD;
        if side == Side::Before
            && let Some(effects) = &told.effects
        {
            let mut file = effects.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = writeln!(file, "{}", effect.name()) {
                refuse(&format!("SILTSTONE_EFFECTS: {error}"));
            }
        }
        let Some((asked, at, number)) = told.abort else { return };
        if (asked, at) == (effect, side) && told.reached.fetch_add(1, Ordering::SeqCst) + 1 == number {
            std::process::abort();
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_failpoint_is_read_or_refused() {
            assert_eq!(parse("plan-commit:before:1"), Some((Effect::PlanCommit, Side::Before, 1)));
            assert_eq!(parse("stage-sweep:after:12"), Some((Effect::StageSweep, Side::After, 12)));
            for wrong in
                ["", "plan-commit", "plan-commit:before", "plan:before:1", "plan-commit:at:1", "plan-commit:before:0"]
            {
                assert_eq!(parse(wrong), None, "{wrong}");
            }
            assert_eq!(parse("plan-commit:before:1:2"), None);
        }
    }
}
