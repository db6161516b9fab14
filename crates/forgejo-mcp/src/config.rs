//! What the server is told: flags, and an environment in which the token is.
//!
//! The token is never a flag: what stands in a command line is seen by every user of the machine.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use url::Url;

use crate::tools::Toolset;

/// The variable that holds the token, and the name of the file in a directory of credentials.
pub(crate) const TOKEN_VARIABLE: &str = "FORGEJO_TOKEN";
const TOKEN_BYTES_MAX: u64 = 16 * 1024;

/// Serves a Forgejo or Gitea to a model: MCP over stdin and stdout.
///
/// The token is read from FORGEJO_TOKEN, from the file that FORGEJO_TOKEN_FILE names, or from the file
/// FORGEJO_TOKEN in the directory that CREDENTIALS_DIRECTORY names; without one, only what is public can be read.
#[derive(Debug, Parser)]
#[command(name = "forgejo-mcp", version)]
pub(crate) struct Flags {
    /// The forge, such as `https://codeberg.org`, or with a path if it lives under one.
    #[arg(long, env = "FORGEJO_URL", value_name = "URL")]
    url: Option<String>,
    /// Offer only tools that change nothing.
    #[arg(long, env = "FORGEJO_READ_ONLY", value_parser = clap::builder::FalseyValueParser::new())]
    read_only: bool,
    /// Offer only these groups of tools.
    #[arg(long, env = "FORGEJO_TOOLSETS", value_name = "NAME,…", value_delimiter = ',')]
    toolsets: Vec<Toolset>,
    /// How long one request to the forge may take.
    #[arg(long, env = "FORGEJO_TIMEOUT_SECONDS", value_name = "SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout_seconds: u64,
    /// How much one answer holds before it is continued in a next one.
    #[arg(long, env = "FORGEJO_MAX_OUTPUT_BYTES", value_name = "BYTES", default_value_t = 24_000,
          value_parser = clap::value_parser!(u32).range(8_000..=1_000_000))]
    max_output_bytes: u32,
    /// Print the tools as a client is told them, and end.
    #[arg(long)]
    pub(crate) print_tools: bool,
}

/// What a server is made from.
#[derive(Debug)]
pub(crate) struct Config {
    /// The root of the API, with a slash at its end.
    pub(crate) api: Url,
    pub(crate) token: Option<Token>,
    pub(crate) timeout: Duration,
    pub(crate) offer: Offer,
}

/// Which tools are offered, and how large their answers may be.
#[derive(Debug, Clone)]
pub(crate) struct Offer {
    pub(crate) read_only: bool,
    /// Empty means all.
    pub(crate) toolsets: Vec<Toolset>,
    pub(crate) output_bytes_max: usize,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("FORGEJO_URL is not set: the forge's address, such as https://codeberg.org (or --url)")]
    NoUrl,
    #[error("FORGEJO_URL is not an address of a forge: {0}")]
    BadUrl(&'static str),
    #[error("the token in {0} cannot be read: {1}")]
    TokenFile(PathBuf, std::io::Error),
    #[error("the token in {0} is not one: it is empty, too long, or has characters that no token has")]
    BadToken(String),
}

impl Flags {
    /// Which tools these flags ask for.
    pub(crate) fn offer(&self) -> Offer {
        Offer {
            read_only: self.read_only,
            toolsets: self.toolsets.clone(),
            output_bytes_max: self.max_output_bytes as usize,
        }
    }

    /// Completes the flags with the token, which `variable` or a file that it names holds.
    pub(crate) fn config(self, variable: impl Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
        let offer = self.offer();
        Ok(Config {
            api: api_root(self.url.as_deref().ok_or(ConfigError::NoUrl)?)?,
            token: token(variable)?,
            timeout: Duration::from_secs(self.timeout_seconds),
            offer,
        })
    }
}

/// The address of the API from what people call the address of their forge.
fn api_root(given: &str) -> Result<Url, ConfigError> {
    let mut url = Url::parse(given.trim())
        .map_err(|_| ConfigError::BadUrl("it is no URL; it begins with https:// or http://"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(ConfigError::BadUrl("it begins with neither https:// nor http://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(ConfigError::BadUrl(
            "it holds a password; the token has a variable of its own, FORGEJO_TOKEN",
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(ConfigError::BadUrl("it has a query or a fragment"));
    }
    let path = url
        .path()
        .trim_end_matches('/')
        .trim_end_matches("/api/v1")
        .to_owned();
    url.set_path(&format!("{path}/api/v1/"));
    Ok(url)
}

fn token(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Token>, ConfigError> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    if let Some(value) = set(TOKEN_VARIABLE) {
        return Token::new(&value)
            .map(Some)
            .ok_or_else(|| ConfigError::BadToken(TOKEN_VARIABLE.to_owned()));
    }
    let file = match (set("FORGEJO_TOKEN_FILE"), set("CREDENTIALS_DIRECTORY")) {
        (Some(file), _) => PathBuf::from(file),
        (None, Some(directory)) => {
            let file = Path::new(&directory).join(TOKEN_VARIABLE);
            if !file.exists() {
                return Ok(None);
            }
            file
        }
        (None, None) => return Ok(None),
    };
    let value = read_bounded(&file).map_err(|error| ConfigError::TokenFile(file.clone(), error))?;
    Token::new(&value)
        .map(Some)
        .ok_or_else(|| ConfigError::BadToken(file.display().to_string()))
}

fn read_bounded(file: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut value = String::new();
    std::fs::File::open(file)?
        .take(TOKEN_BYTES_MAX)
        .read_to_string(&mut value)?;
    Ok(value)
}

/// A token. It shows itself to nobody but the forge.
#[derive(Clone)]
pub(crate) struct Token(String);

impl Token {
    /// `None` for what cannot stand in a header.
    fn new(value: &str) -> Option<Self> {
        let value = value.trim();
        let sound = !value.is_empty()
            && (value.len() as u64) < TOKEN_BYTES_MAX
            && value.bytes().all(|byte| byte.is_ascii_graphic());
        sound.then(|| Self(value.to_owned()))
    }

    /// The header that carries it.
    pub(crate) fn header(&self) -> Option<reqwest::header::HeaderValue> {
        let mut header = reqwest::header::HeaderValue::from_str(&format!("token {}", self.0)).ok()?;
        header.set_sensitive(true);
        Some(header)
    }

    /// Takes the token out of a text, whoever put it there: a forge may repeat what it was told.
    pub(crate) fn scrub(&self, text: &mut String) {
        // Short ones are words; a text without them would be a riddle, and no forge issues such tokens.
        if self.0.len() >= 8 && text.contains(&self.0) {
            *text = text.replace(&self.0, "[token]");
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_forges() {
        for (given, api) in [
            ("https://codeberg.org", "https://codeberg.org/api/v1/"),
            ("https://codeberg.org/", "https://codeberg.org/api/v1/"),
            ("http://127.0.0.1:3000/api/v1/", "http://127.0.0.1:3000/api/v1/"),
            ("https://example.org/git/", "https://example.org/git/api/v1/"),
        ] {
            assert_eq!(api_root(given).unwrap().as_str(), api);
        }
        for given in [
            "",
            "codeberg.org",
            "ftp://x",
            "https://u:p@x",
            "https://x/?a=b",
            "https://x/#y",
        ] {
            let error = api_root(given).unwrap_err().to_string();
            assert!(error.starts_with("FORGEJO_URL"), "{given}: {error}");
            assert!(!error.contains("u:p"), "{error}");
        }
    }

    #[test]
    fn a_token_shows_itself_to_nobody() {
        let token = Token::new(" s3cret-token-of-mine\n").unwrap();
        assert_eq!(format!("{token:?}"), "Token(…)");
        assert!(token.header().unwrap().is_sensitive());
        let mut text = "you sent s3cret-token-of-mine".to_owned();
        token.scrub(&mut text);
        assert_eq!(text, "you sent [token]");
        assert!(Token::new("two words").is_none() && Token::new("").is_none());
    }

    #[test]
    fn a_token_comes_from_a_variable_or_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(TOKEN_VARIABLE);
        let from = |name: &'static str, value: String| {
            token(move |asked| (asked == name).then(|| value.clone())).map(|token| token.map(|token| token.0))
        };
        let path = directory.path().display().to_string();
        assert_eq!(from("CREDENTIALS_DIRECTORY", path.clone()).unwrap(), None);
        std::fs::write(&file, "of-a-file\n").unwrap();
        assert_eq!(
            from("CREDENTIALS_DIRECTORY", path).unwrap().as_deref(),
            Some("of-a-file")
        );
        assert_eq!(
            from("FORGEJO_TOKEN_FILE", file.display().to_string())
                .unwrap()
                .as_deref(),
            Some("of-a-file")
        );
        assert_eq!(
            from("FORGEJO_TOKEN", "direct".to_owned()).unwrap().as_deref(),
            Some("direct")
        );
        assert!(from("FORGEJO_TOKEN_FILE", "/does/not/exist".to_owned()).is_err());
        assert!(from("FORGEJO_TOKEN", "a b".to_owned()).is_err());
    }
}
