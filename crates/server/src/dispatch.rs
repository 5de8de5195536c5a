//! What happens to every request: its version is taken from the path, and Docker's headers are put on the answer.

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use palan_docker_api::version::ApiVersion;
use std::sync::LazyLock;
use tower::ServiceExt;

use crate::error::ApiError;
use crate::extract::Version;
use crate::unread::Left;

static NEWEST: LazyLock<HeaderValue> = LazyLock::new(|| {
    HeaderValue::from_str(&ApiVersion::MAX.to_string()).unwrap_or(HeaderValue::from_static("1.56"))
});
const SERVER: &str = concat!("Palan/", env!("CARGO_PKG_VERSION"), " (linux)");

/// Answers one request.
pub(crate) async fn dispatch(router: Router, mut request: Request) -> Response {
    let mut response = match take_version(request.uri()) {
        Ok((version, uri)) => {
            *request.uri_mut() = uri;
            request.extensions_mut().insert(Version(version));
            let left = request.extensions_mut().remove::<Left>();
            // Whoever asked whether to send the body has not sent it.
            let is_asking = request.headers().contains_key(http::header::EXPECT);
            let mut response = match router.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            };
            let is_last = match left {
                Some(left) if is_asking || response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    drop(left.answered());
                    false
                }
                Some(left) => !left.drain().await,
                None => false,
            };
            if is_last {
                response.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
        Err(response) => *response,
    };
    add_headers(response.headers_mut());
    response
}

fn add_headers(headers: &mut HeaderMap) {
    headers.insert(HeaderName::from_static("api-version"), NEWEST.clone());
    let experimental = headers.entry(HeaderName::from_static("docker-experimental"));
    experimental.or_insert(HeaderValue::from_static("false"));
    headers.insert(HeaderName::from_static("ostype"), HeaderValue::from_static("linux"));
    headers.insert(http::header::SERVER, HeaderValue::from_static(SERVER));
}

/// Splits `/v1.NN/path`. What only looks like a version is a path that no route has.
fn take_version(uri: &Uri) -> Result<(ApiVersion, Uri), Box<Response>> {
    let split = uri.path().strip_prefix("/v").and_then(|rest| {
        let (version, _) = rest.split_once('/')?;
        version.bytes().all(|b| b.is_ascii_digit() || b == b'.').then_some(version)
    });
    let Some(text) = split else { return Ok((ApiVersion::MAX, uri.clone())) };
    let Ok(version) = text.parse::<ApiVersion>() else {
        return Err(Box::new(ApiError::page_not_found().into_response()));
    };
    if version < ApiVersion::MIN {
        // Plain text, because clients that old print the answer as it comes.
        let message = format!(
            "client version {version} is too old. Minimum supported API version is {}, please upgrade your client to a newer version\n",
            ApiVersion::MIN
        );
        return Err(Box::new((StatusCode::BAD_REQUEST, message).into_response()));
    }
    if version > ApiVersion::MAX {
        let newest = ApiVersion::MAX;
        let message =
            format!("client version {version} is too new. Maximum supported API version is {newest}");
        return Err(Box::new(ApiError::invalid(message).into_response()));
    }
    let whole = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    match whole.get("/v".len() + text.len()..).unwrap_or("/").parse::<PathAndQuery>() {
        Ok(rest) => Ok((version, Uri::from(rest))),
        Err(_) => Err(Box::new(ApiError::page_not_found().into_response())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: Result<(&str, &str), u16>) {
        let taken = take_version(&path.parse().unwrap());
        let taken = taken.map(|(v, uri)| (v.to_string(), uri.to_string())).map_err(|r| r.status().as_u16());
        assert_eq!(taken, expected.map(|(v, p)| (v.to_owned(), p.to_owned())), "{path}");
    }

    #[test]
    fn versions() {
        check("/v1.41/containers/json?all=1", Ok(("1.41", "/containers/json?all=1")));
        check("/containers/json?all=1", Ok(("1.56", "/containers/json?all=1")));
        check("/v1.24/_ping", Ok(("1.24", "/_ping")));
        check("/volumes", Ok(("1.56", "/volumes")));
        check("/volumes/v1.41/x", Ok(("1.56", "/volumes/v1.41/x")));
        check("/version", Ok(("1.56", "/version")));
        check("/v1.41//x", Ok(("1.41", "//x")));
        check("/v1.23/info", Err(400));
        check("/v1.57/info", Err(400));
        check("/v1/info", Err(404));
        check("/v1.2.3/info", Err(404));
        check("/v1.99999999/info", Err(404));
    }

    #[tokio::test]
    async fn every_answer_has_the_headers() {
        let router = || Router::new().route("/x", axum::routing::get(|| async { "x" }));
        for (path, status) in [("/x", 200), ("/v1.24/x", 200), ("/y", 404), ("/v1.99/x", 400)] {
            let request = Request::builder().uri(path).body(axum::body::Body::empty()).unwrap();
            let response = dispatch(router(), request).await;
            assert_eq!(response.status().as_u16(), status, "{path}");
            assert_eq!(response.headers()["api-version"], "1.56");
            assert_eq!(response.headers()["ostype"], "linux");
        }
    }
}
