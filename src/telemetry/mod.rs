//! What a person or a monitor sees: logs, health, numbers.

pub mod health;
pub mod http;
pub mod logs;
pub mod progress;
pub mod status;
