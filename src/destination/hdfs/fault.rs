//! What a namenode or a datanode said, in the words of [`crate::destination::fault`].

use crate::destination::fault::{FaultKind, one_line};
use hdfs_native::HdfsError;
use std::io;

/// The kind of `error`, the Java class of the answer, and a text with what can be done about it.
pub(in crate::destination) fn told(error: &HdfsError) -> (FaultKind, Option<String>, String) {
    match error {
        HdfsError::RPCError(class, message) | HdfsError::FatalRPCError(class, message) => answered(class, message),
        HdfsError::IOError(error) => of_the_network(error),
        other => (kind_of(other), None, one_line(&other.to_string())),
    }
}

fn kind_of(error: &HdfsError) -> FaultKind {
    match error {
        HdfsError::FileNotFound(_) => FaultKind::NotFound,
        HdfsError::AlreadyExists(_)
        | HdfsError::InvalidPath(_)
        | HdfsError::InvalidArgument(_)
        | HdfsError::IsADirectoryError(_) => FaultKind::Invalid,
        HdfsError::SASLError(_) | HdfsError::GSSAPIError(..) | HdfsError::NoSASLMechanism => FaultKind::Login,
        HdfsError::ChecksumError => FaultKind::Damaged,
        HdfsError::UnsupportedFeature(_) | HdfsError::UnsupportedErasureCodingPolicy(_) => FaultKind::Unsupported,
        // Datanodes that died, blocks that none of them has at the moment, a file that could not be closed in time.
        HdfsError::DataTransferError(_) | HdfsError::BlocksNotFound(_) | HdfsError::OperationFailed(_) => {
            FaultKind::Busy
        }
        _ => FaultKind::Other,
    }
}

fn of_the_network(error: &io::Error) -> (FaultKind, Option<String>, String) {
    let text = one_line(&error.to_string());
    let is_nowhere = matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::AddrNotAvailable
    );
    if is_nowhere || text.contains("failed to lookup address") {
        (FaultKind::Unreachable, None, format!("no connection: {text}"))
    } else {
        (FaultKind::Interrupted, None, format!("the connection broke or timed out: {text}"))
    }
}

/// An exception of the namenode, by the last part of its class.
fn answered(class: &str, message: &str) -> (FaultKind, Option<String>, String) {
    let name = class.rsplit(['.', '$']).next().unwrap_or(class);
    let (kind, advice) = match name {
        "AccessControlException" | "SnapshotAccessControlException" | "AuthorizationException" => {
            (FaultKind::Denied, "")
        }
        "InvalidToken" | "AuthenticationException" => (FaultKind::Login, ""),
        "SafeModeException" => (FaultKind::Busy, SAFE_MODE),
        "RetriableException" if message.contains("SafeMode") => (FaultKind::Busy, SAFE_MODE),
        "StandbyException" => (
            FaultKind::Busy,
            "every namenode that was asked is standby: a failover is under way, or the active one is not configured",
        ),
        "RetriableException" | "ObserverRetryOnActiveException" | "ServerTooBusyException" => (FaultKind::Busy, ""),
        "NSQuotaExceededException"
        | "DSQuotaExceededException"
        | "QuotaByStorageTypeExceededException"
        | "MaxDirectoryItemsExceededException" => {
            (FaultKind::Full, "`hdfs dfs -count -q -v FOLDER` shows a folder's quotas")
        }
        // Our staged file is gone, or another client has taken it over.
        "LeaseExpiredException"
        | "AlreadyBeingCreatedException"
        | "RecoveryInProgressException"
        | "FileNotFoundException" => (FaultKind::Busy, ""),
        "InvalidPathException"
        | "PathComponentTooLongException"
        | "ParentNotDirectoryException"
        | "PathIsNotEmptyDirectoryException"
        | "HadoopIllegalArgumentException"
        | "IllegalArgumentException" => (FaultKind::Invalid, ""),
        // A file that is to replace a folder.
        "IOException" if message.contains("must both be directories") => (FaultKind::Invalid, FOLDER_THERE),
        "IOException" if message.contains("could only be written to") => (FaultKind::Busy, DATANODES),
        "NotReplicatedYetException" => (FaultKind::Busy, ""),
        "UnsupportedOperationException" | "RpcNoSuchMethodException" => (FaultKind::Unsupported, ""),
        _ => (FaultKind::Other, ""),
    };
    let mut what = format!("the namenode answered {name} ({})", one_line(message));
    if !advice.is_empty() {
        what = format!("{what}; {advice}");
    }
    (kind, Some(name.to_string()), what)
}

const SAFE_MODE: &str = "the namenode leaves safe mode by itself when enough datanodes have reported; `hdfs dfsadmin -safemode get` shows it";
const FOLDER_THERE: &str = "a folder has the name of the file: move it away";
const DATANODES: &str = "too few datanodes are alive or have room: `hdfs dfsadmin -report` shows them";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::fault::{Fault, Verdict};
    use object_store::Error;

    #[test]
    fn answers_decide_kind_and_verdict() {
        let rpc = |class: &str, message: &str| HdfsError::RPCError(class.to_string(), message.to_string());
        let io = |kind| HdfsError::IOError(io::Error::from(kind));
        let cases = [
            (rpc("org.apache.hadoop.security.AccessControlException", "no"), FaultKind::Denied, Verdict::Refused),
            (
                rpc("org.apache.hadoop.security.authorize.AuthorizationException", "x"),
                FaultKind::Denied,
                Verdict::Refused,
            ),
            (rpc("org.apache.hadoop.hdfs.server.namenode.SafeModeException", "x"), FaultKind::Busy, Verdict::Retry),
            (
                rpc("org.apache.hadoop.ipc.RetriableException", "..SafeModeException: x"),
                FaultKind::Busy,
                Verdict::Retry,
            ),
            (rpc("org.apache.hadoop.ipc.StandbyException", "x"), FaultKind::Busy, Verdict::Retry),
            (rpc("org.apache.hadoop.hdfs.protocol.DSQuotaExceededException", "x"), FaultKind::Full, Verdict::Retry),
            (
                rpc("org.apache.hadoop.hdfs.protocol.FSLimitException$PathComponentTooLongException", "x"),
                FaultKind::Invalid,
                Verdict::Refused,
            ),
            (rpc("org.apache.hadoop.hdfs.server.namenode.LeaseExpiredException", "x"), FaultKind::Busy, Verdict::Retry),
            (
                rpc("java.io.IOException", "File /x could only be written to 0 of the 1 minReplication nodes."),
                FaultKind::Busy,
                Verdict::Retry,
            ),
            (
                rpc("java.io.IOException", "Source /s and destination /x must both be directories"),
                FaultKind::Invalid,
                Verdict::Refused,
            ),
            (rpc("org.apache.hadoop.HadoopIllegalArgumentException", "x"), FaultKind::Invalid, Verdict::Refused),
            (HdfsError::IsADirectoryError("/x".to_string()), FaultKind::Invalid, Verdict::Refused),
            (rpc("java.io.IOException", "something"), FaultKind::Other, Verdict::Retry),
            (HdfsError::NoSASLMechanism, FaultKind::Login, Verdict::Refused),
            (HdfsError::DataTransferError("all nodes".to_string()), FaultKind::Busy, Verdict::Retry),
            (HdfsError::UnsupportedFeature("zone".to_string()), FaultKind::Unsupported, Verdict::Refused),
            (io(io::ErrorKind::ConnectionRefused), FaultKind::Unreachable, Verdict::Retry),
            (io(io::ErrorKind::ConnectionAborted), FaultKind::Interrupted, Verdict::Retry),
            (io(io::ErrorKind::TimedOut), FaultKind::Interrupted, Verdict::Retry),
        ];
        for (error, kind, verdict) in cases {
            let text = error.to_string();
            let fault = Fault::of(&Error::Generic { store: "hdfs", source: Box::new(error) });
            assert_eq!((fault.kind, fault.verdict()), (kind, verdict), "{text}: {fault}");
        }
    }

    #[test]
    fn the_text_says_what_to_do() {
        let class = "org.apache.hadoop.hdfs.server.namenode.SafeModeException";
        let (_, code, text) = answered(class, "Cannot create file/x. Name node is in safe mode.\nstack");
        assert_eq!(code.as_deref(), Some("SafeModeException"));
        assert_eq!(
            text,
            "the namenode answered SafeModeException (Cannot create file/x. Name node is in safe mode.); the namenode leaves safe mode \
             by itself when enough datanodes have reported; `hdfs dfsadmin -safemode get` shows it"
        );
    }
}
