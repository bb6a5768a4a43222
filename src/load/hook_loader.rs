//! Complete folders told to hooks.

use super::{LoadFailure, Loader, Report, Window};
use crate::hook::{Hook, HookFailure, Kind, folder_body, folder_key};
use async_trait::async_trait;
use std::sync::Arc;

/// Tells a hook.
#[derive(Debug)]
pub struct HookLoader {
    /// Which.
    pub hook: Arc<Hook>,
}

#[async_trait]
impl Loader for HookLoader {
    async fn load(&self, window: &Window<'_>) -> Result<Report, LoadFailure> {
        let key = folder_key(window.completed);
        let _room = self.hook.enter().await;
        let told = self.hook.call(Kind::Folder, &key, &folder_body(&key, window.completed)).await;
        told.map_err(|HookFailure { message, verdict }| LoadFailure::Failed { message, verdict })?;
        Ok(Report { into: self.hook.shown(), by: key, ..Report::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::completions::Completed;
    use crate::config::Secret;
    use crate::destination::fault::Verdict;
    use crate::hook::call::Command;
    use std::time::Duration;

    /// Goal: a hook is told of a revision with its key; what it says when it fails is in the failure.
    #[tokio::test]
    async fn a_revision_is_told_to_a_command() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("told");
        let stored = r#"{"version":1,"archive":"a","generation":1,"topic":"t","output":"o","destination":"s3://b","folder":"t/hr=1",
            "revision":2,"window_end_ms":3,"rows":4,"objects":5,"bytes":6,"watermark_ms":7,"covered":{"0":[1,2]}}"#;
        let completed: Completed = serde_json::from_str(stored).expect("a revision");
        let loader = |script: String| {
            let arguments = ["-c", &script].map(Secret::new).to_vec();
            let caller = Box::new(Command { program: "sh".to_string(), arguments });
            HookLoader { hook: Arc::new(Hook::new(("a", "h"), (false, true), Duration::from_secs(30), caller)) }
        };
        let window = Window { completed: &completed, earlier: &[], after_ms: None };
        let report = loader(format!("cat > {}", path.display())).load(&window).await.expect("told");
        assert_eq!((report.into.as_str(), &report.by), ("run sh", &folder_key(&completed)));
        let told: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).expect("told")).expect("JSON");
        assert_eq!(
            (&told["kind"], &told["folder"], &told["revision"]),
            (&"folder".into(), &"t/hr=1".into(), &2.into())
        );
        let failed = loader("cat >/dev/null; echo no >&2; exit 1".to_string()).load(&window).await;
        let message = "run sh: exit code 1: no".to_string();
        assert_eq!(failed, Err(LoadFailure::Failed { message, verdict: Verdict::Retry }));
    }
}
