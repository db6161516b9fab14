//! The supervisor as a program of its own.
fn main() {}
