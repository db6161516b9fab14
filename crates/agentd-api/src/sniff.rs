//! Which of the two protocols a client speaks, told from its first bytes.

/// What is known so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// What there is could still become an HTTP method.
    Undecided,
    /// Begins with an HTTP method and a space, which no JSON text does.
    Http,
    /// Everything else, so that whoever sends anything is told what is expected.
    JsonLines,
}

const HTTP_METHODS: [&[u8]; 10] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"OPTIONS ",
    b"PATCH ",
    b"TRACE ",
    b"CONNECT ",
    // The first word of HTTP/2, which is answered in HTTP/1.1.
    b"PRI ",
];

/// Decides by the first bytes of a connection. `at_end`: there will be no more.
pub(crate) fn protocol(first: &[u8], at_end: bool) -> Protocol {
    if HTTP_METHODS.iter().any(|method| first.starts_with(method)) {
        Protocol::Http
    } else if !at_end && HTTP_METHODS.iter().any(|method| method.starts_with(first)) {
        Protocol::Undecided
    } else {
        Protocol::JsonLines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell() {
        assert_eq!(protocol(b"", false), Protocol::Undecided);
        assert_eq!(protocol(b"GE", false), Protocol::Undecided);
        assert_eq!(protocol(b"GET", false), Protocol::Undecided);
        assert_eq!(protocol(b"GET", true), Protocol::JsonLines);
        assert_eq!(protocol(b"GET\n", false), Protocol::JsonLines);
        assert_eq!(protocol(b"GET /v1/health HTTP/1.1\r\n", false), Protocol::Http);
        assert_eq!(protocol(b"P", false), Protocol::Undecided);
        assert_eq!(protocol(b"hello", false), Protocol::JsonLines);
        assert_eq!(protocol(b"\n{", false), Protocol::JsonLines);
        assert_eq!(protocol(b"{\"method\"", false), Protocol::JsonLines);
    }
}
