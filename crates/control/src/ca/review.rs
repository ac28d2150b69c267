//! Tokens that the Kubernetes API is asked about (`TokenReview`), because nobody here has their issuer's
//! keys. Must never know what a caller wants.
//!
//! Source: Kubernetes, authentication.k8s.io/v1; Istio checks the same of the answer.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::uri::Scheme;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use weft_ca::Refusal;
use weft_jwt::Token;
use zeroize::Zeroizing;

use crate::keys::connect;

const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
/// Time for an answer, waiting included.
const ANSWER: Duration = Duration::from_secs(5);
/// Reviews at once.
const AT_ONCE: usize = 32;
/// Bytes of an answer.
const MAX_ANSWER: usize = 256 * 1024;
/// Bytes of a token.
const MAX_TOKEN: usize = 16 * 1024;
/// What clocks may differ, in seconds.
const SKEW: u64 = 60;
/// How names of service accounts begin.
const ACCOUNT: &str = "system:serviceaccount:";
/// The group of all of them.
const GROUP: &str = "system:serviceaccounts";

/// Which API is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReviewConfig {
    /// `https://host:port`; `http://` on loopback only.
    pub url: String,
    /// File with the token that is shown to the API; read for each question.
    pub token: PathBuf,
    /// PEM file of the roots by which the API is checked; read for each question.
    pub roots: PathBuf,
    /// A token must be for one of them.
    pub audiences: Vec<String>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Reviewer {
    config: ReviewConfig,
    uri: Uri,
    host: String,
    places: Arc<Semaphore>,
}

impl Reviewer {
    /// # Errors
    /// What is wrong with the configuration.
    pub(super) fn new(config: &ReviewConfig) -> Result<Self, String> {
        let url = &config.url;
        let wrong = || format!("{url}: write the URL of a Kubernetes API, https://host:port");
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let host = uri.host().filter(|_| matches!(uri.path(), "" | "/"));
        let host = host.ok_or_else(wrong)?;
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let local = host
            .parse::<std::net::IpAddr>()
            .map_or(host == "localhost", |address| address.is_loopback());
        match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => {}
            Some(scheme) if *scheme == Scheme::HTTP && local => {}
            Some(scheme) if *scheme == Scheme::HTTP => {
                return Err(format!("{url}: tokens are shown to it; write https"));
            }
            _ => return Err(wrong()),
        }
        if config.audiences.is_empty() || config.audiences.iter().any(String::is_empty) {
            return Err("a token must be meant for the authority: name its audience".to_owned());
        }
        Ok(Self {
            config: config.clone(),
            uri,
            host,
            places: Arc::new(Semaphore::new(AT_ONCE)),
        })
    }

    /// The namespace and service account that a token is of.
    ///
    /// # Errors
    /// The API does not believe it, or cannot be asked.
    pub(super) async fn review(&self, token: &str) -> Result<(String, String), Refusal> {
        self.look(token)?;
        let asked = async {
            let place = self.places.acquire().await;
            let _place = place.map_err(|error| error.to_string())?;
            self.ask(token).await
        };
        let answer = tokio::time::timeout(ANSWER, asked).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {ANSWER:?}")));
        let answer = answer.map_err(Refusal::ReviewUnavailable)?;
        self.judge(&answer)
    }

    /// What is no token of such an audience, or has ended, is not worth a question.
    fn look(&self, token: &str) -> Result<(), Refusal> {
        if token.len() > MAX_TOKEN {
            return Err(Refusal::TokenForm("it is longer than 16 KiB"));
        }
        let token = Token::parse(token).map_err(|failure| Refusal::TokenForm(failure.text()))?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let time = token.check_time(now.unwrap_or_default().as_secs(), SKEW);
        time.map_err(|failure| Refusal::TokenTime(failure.text()))?;
        let mut audiences = token.audiences();
        if !audiences.any(|one| self.config.audiences.iter().any(|own| own == one)) {
            return Err(Refusal::TokenAudience);
        }
        Ok(())
    }

    fn judge(&self, answer: &Value) -> Result<(String, String), Refusal> {
        let status = &answer["status"];
        let refused = |text: &str| Refusal::Review(text.chars().take(200).collect());
        if let Some(error) = status["error"].as_str().filter(|error| !error.is_empty()) {
            return Err(refused(error));
        }
        if status["authenticated"] != Value::Bool(true) {
            return Err(refused("it is not authenticated"));
        }
        let texts = |value: &Value| -> Vec<String> {
            let list = value.as_array().map_or(&[][..], Vec::as_slice);
            let texts = list.iter().filter_map(Value::as_str);
            texts.map(str::to_owned).collect()
        };
        // An API that knows no audiences names none.
        let audiences = texts(&status["audiences"]);
        if !audiences
            .iter()
            .any(|one| self.config.audiences.contains(one))
        {
            return Err(Refusal::TokenAudience);
        }
        let user = &status["user"];
        let name = user["username"].as_str().unwrap_or_default();
        let is_account = texts(&user["groups"]).iter().any(|group| group == GROUP);
        let account = name.strip_prefix(ACCOUNT).filter(|_| is_account);
        let parts = account.and_then(|account| account.split_once(':'));
        let subject = || Refusal::TokenSubject(name.chars().take(128).collect());
        let (namespace, account) = parts.ok_or_else(subject)?;
        Ok((namespace.to_owned(), account.to_owned()))
    }

    async fn ask(&self, token: &str) -> Result<Value, String> {
        let is_tls = self.uri.scheme() == Some(&Scheme::HTTPS);
        let port = self.uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let own = read(&self.config.token).await?;
        let question = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token, "audiences": self.config.audiences},
        });
        let authority = self
            .uri
            .authority()
            .map_or("", http::uri::Authority::as_str);
        let bearer = Zeroizing::new(format!("Bearer {}", own.trim()));
        let mut bearer = header::HeaderValue::from_str(&bearer)
            .map_err(|_| format!("{}: is no token", self.config.token.display()))?;
        bearer.set_sensitive(true);
        let request = Request::builder()
            .method(Method::POST)
            .uri(PATH)
            .header(header::HOST, authority)
            .header(header::AUTHORIZATION, bearer)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(Full::new(Bytes::from(question.to_string())))
            .map_err(|error| error.to_string())?;
        let tcp = connect(&self.host, port).await?;
        if !is_tls {
            return exchange(TokioIo::new(tcp), request).await;
        }
        let name = ServerName::try_from(self.host.clone()).map_err(|error| error.to_string())?;
        let tls = tls(&self.config.roots)?;
        let stream = tls.connect(name, tcp).await;
        exchange(
            TokioIo::new(stream.map_err(|error| error.to_string())?),
            request,
        )
        .await
    }
}

async fn read(path: &Path) -> Result<Zeroizing<String>, String> {
    let text = tokio::fs::read_to_string(path).await;
    let text = text.map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Zeroizing::new(text))
}

fn tls(roots: &Path) -> Result<TlsConnector, String> {
    let problem = |error: String| format!("{}: {error}", roots.display());
    let found = rustls::pki_types::CertificateDer::pem_file_iter(roots);
    let found = found.map_err(|error| problem(error.to_string()))?;
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(found.flatten());
    if added == 0 {
        return Err(problem("holds no root that can be used".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn exchange<S>(stream: TokioIo<S>, request: Request<Full<Bytes>>) -> Result<Value, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(stream).await.map_err(text)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(text)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await;
        let body = body
            .map_err(|error| format!("the body: {error}"))?
            .to_bytes();
        if status != StatusCode::CREATED && status != StatusCode::OK {
            return Err(format!("status {status}"));
        }
        serde_json::from_slice(&body).map_err(|error| format!("the answer: {error}"))
    };
    // The connection is driven here, so that it ends with the exchange.
    tokio::pin!(exchange, connection);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> ReviewConfig {
        ReviewConfig {
            url: url.to_owned(),
            token: PathBuf::new(),
            roots: PathBuf::new(),
            audiences: vec!["istio-ca".to_owned()],
        }
    }

    #[test]
    fn tokens_go_in_plain_text_nowhere_but_to_this_machine() {
        for good in [
            "https://kubernetes.default.svc",
            "http://127.0.0.1:8001",
            "https://[::1]:6443/",
        ] {
            Reviewer::new(&config(good)).expect(good);
        }
        for bad in ["http://10.0.0.1", "https://a/path", "a", "ftp://a", ""] {
            Reviewer::new(&config(bad)).expect_err(bad);
        }
        let mut nobody = config("https://a");
        nobody.audiences.clear();
        Reviewer::new(&nobody).expect_err("for any audience");
    }

    #[test]
    fn an_answer_must_name_a_service_account_and_an_audience() {
        let reviewer = Reviewer::new(&config("https://a")).expect("valid");
        let good = json!({"status": {
            "authenticated": true, "audiences": ["istio-ca"],
            "user": {"username": "system:serviceaccount:shop:cart", "groups": [GROUP]},
        }});
        let found = reviewer.judge(&good).expect("good");
        assert_eq!(found, ("shop".to_owned(), "cart".to_owned()));
        let refused = |path: &str, value: Value| {
            let mut bad = good.clone();
            *bad.pointer_mut(path).expect(path) = value;
            reviewer.judge(&bad).expect_err(path).reason()
        };
        assert_eq!(
            refused("/status/authenticated", json!(false)),
            "token_review"
        );
        assert_eq!(
            refused("/status/authenticated", json!("true")),
            "token_review"
        );
        assert_eq!(refused("/status/audiences", json!([])), "token_audience");
        assert_eq!(
            refused("/status/audiences", json!(["api"])),
            "token_audience"
        );
        assert_eq!(refused("/status/user/groups", json!([])), "token_subject");
        assert_eq!(
            refused("/status/user/username", json!("admin")),
            "token_subject"
        );
        let mut error = good.clone();
        error["status"]["error"] = json!("it has expired");
        assert_eq!(
            reviewer.judge(&error).expect_err("an error").reason(),
            "token_review"
        );
        assert_eq!(
            reviewer.judge(&json!([])).expect_err("no answer").reason(),
            "token_review"
        );
    }
}
