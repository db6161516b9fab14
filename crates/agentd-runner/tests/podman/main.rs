//! Sessions in real containers: as root and as an ordinary user, with runc and with gVisor.

mod clearing;
mod gvisor;
mod isolation;
mod sessions;
mod support;
