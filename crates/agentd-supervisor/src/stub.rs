//! Stub.
#![allow(missing_docs, unused, dead_code)]
use crate::dir::SessionDir;
use crate::record::Record;
use std::path::Path;
use std::time::Duration;
pub fn is_alive(_: &SessionDir) -> bool { false }
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct SpawnError;
pub fn spawn(_: &Path, _: &[String], _: &SessionDir) -> Result<(), SpawnError> { Ok(()) }
#[derive(Debug)]
pub struct Control;
impl Control {
    pub async fn connect(_: &SessionDir) -> Result<Self, SpawnError> { Ok(Self) }
    pub async fn watch(&mut self, _: u64) -> Result<(), SpawnError> { Ok(()) }
    pub async fn next(&mut self) -> Result<Option<Record>, SpawnError> { Ok(None) }
    pub async fn stop(&mut self, _: Option<Duration>) -> Result<(), SpawnError> { Ok(()) }
}
pub fn read_records(_: &SessionDir) -> std::io::Result<Vec<Record>> { Ok(vec![]) }
impl SessionDir { pub fn result(&self) -> std::path::PathBuf { self.root().join("result.json") } }
impl crate::spec::Spec { pub fn write(&self, _: &SessionDir) -> std::io::Result<()> { Ok(()) } }
