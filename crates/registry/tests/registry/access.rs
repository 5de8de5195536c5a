//! Who may read, and how that is proved.

use palan_registry::{Class, ClientConfig, Credentials, Proxies};
use palan_test_support::registry::{Fault, Registry};

use crate::fixture::{Fixture, password, sample, settings, text};

#[tokio::test(flavor = "multi_thread")]
async fn basic_authentication() {
    let registry = Registry::start();
    let name = registry.push("app", "1", &sample());
    registry.require_basic("me", "pä:ss");
    Fixture::new().pull_as(&name, password("me", "pä:ss")).await.unwrap();
    let error = Fixture::new().pull(&name).await.unwrap_err();
    assert_eq!(error.class(), Class::System, "a 401 would make Docker's client ask for a password");
    assert!(text(&error).ends_with(": no basic auth credentials"), "{}", text(&error));
    let error = Fixture::new().pull_as(&name, password("me", "wrong")).await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
    assert_eq!(
        text(&error),
        format!(
            "pull access denied for {}/app, repository does not exist or may require 'docker login': unauthorized: authentication required",
            registry.host()
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_for_anyone_and_for_accounts() {
    let registry = Registry::start();
    let name = registry.push("team/app", "1", &sample());
    registry.require_token(None);
    Fixture::new().pull(&name).await.unwrap();
    assert_eq!(registry.count("GET", "/token"), 1, "one token serves the whole pull");
    let request = registry.requests().into_iter().find(|request| request.path.starts_with("/token")).unwrap();
    assert!(request.path.contains("scope=repository%3Ateam%2Fapp%3Apull&service=test"), "{}", request.path);
    assert_eq!(request.header("authorization"), None);

    registry.require_token(Some(("me", "secret")));
    Fixture::new().pull_as(&name, password("me", "secret")).await.unwrap();
    let error = Fixture::new().pull_as(&name, password("me", "wrong")).await.unwrap_err();
    assert_eq!(error.class(), Class::System, "a 401 would make Docker's client ask for a password");
    assert!(text(&error).ends_with("unauthorized: incorrect username or password"), "{}", text(&error));
    assert!(!text(&error).contains("wrong"));
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_tokens_are_exchanged_by_post() {
    let registry = Registry::start();
    let name = registry.push("app", "1", &sample());
    registry.require_identity_token("refresh/1");
    let identity = Credentials::IdentityToken { username: None, token: "refresh/1".into() };
    Fixture::new().pull_as(&name, identity).await.unwrap();
    assert_eq!((registry.count("POST", "/token"), registry.count("GET", "/token")), (1, 0));
    let request = registry.requests().into_iter().find(|request| request.path == "/token").unwrap();
    assert!(request.body.contains("grant_type=refresh_token"), "{}", request.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_tokens_are_passwords_where_there_is_no_post() {
    let registry = Registry::start();
    let name = registry.push("app", "1", &sample());
    registry.require_token(Some(("me", "refresh/1")));
    registry.fault("POST /token", Fault::Status(405, Vec::new(), String::new()));
    let identity = Credentials::IdentityToken { username: Some("me".into()), token: "refresh/1".into() };
    Fixture::new().pull_as(&name, identity).await.unwrap();
    assert_eq!((registry.count("POST", "/token"), registry.count("GET", "/token")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_token_is_sent_as_it_is() {
    let registry = Registry::start();
    let name = registry.push("app", "1", &sample());
    registry.require_token(None);
    let token = Credentials::RegistryToken("token-for-repository-app-pull".into());
    Fixture::new().pull_as(&name, token).await.unwrap();
    assert_eq!(registry.count("GET", "/token"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_never_content() {
    let registry = Registry::start();
    let name = registry.push("app", "1", &sample());
    registry.require_token(None);
    let challenge =
        format!(r#"Bearer realm="{}/token",service="test",error="insufficient_scope""#, registry.url());
    let refusal = Fault::Status(401, vec![("WWW-Authenticate".into(), challenge)], String::new());
    registry.fault("/v2/", refusal);
    let error = Fixture::new().pull(&name).await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
    assert_eq!(
        text(&error),
        format!(
            "pull access denied for {}/app, repository does not exist or may require 'docker login': denied: requested access to the resource is denied",
            registry.host()
        )
    );
    assert!(registry.requests().len() <= 6, "no loop: {}", registry.requests().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_renewed() {
    let registry = Registry::start();
    let name = registry.push("app", "1", &sample());
    registry.require_token(None);
    let fixture = Fixture::new();
    fixture.pull(&name).await.unwrap();
    let challenge =
        format!(r#"Bearer realm="{}/token",service="test",error="invalid_token""#, registry.url());
    registry.fault_times(
        "HEAD",
        Fault::Status(401, vec![("WWW-Authenticate".into(), challenge)], String::new()),
        1,
    );
    fixture.pull(&name).await.unwrap();
    assert_eq!(registry.count("GET", "/token"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn challenges_that_make_no_sense() {
    for challenge in [
        "Negotiate",
        "Bearer",
        "Bearer realm=\"not a url\"",
        "Bearer realm=\"\\",
        "Bearer realm=\"http://u:p@127.0.0.1:1/\"",
    ] {
        let registry = Registry::start();
        let name = registry.push("app", "1", &sample());
        registry.fault(
            "/v2/",
            Fault::Status(401, vec![("WWW-Authenticate".into(), challenge.into())], String::new()),
        );
        Fixture::new().pull_as(&name, password("me", "secret")).await.unwrap_err();
        assert!(
            registry.requests().iter().all(|request| request.header("authorization").is_none()),
            "{challenge}"
        );
    }
    // Tokens that are none.
    for token in ["", "{}", r#"{"token":"a\r\nb"}"#, "[1]"] {
        let registry = Registry::start();
        let name = registry.push("app", "1", &sample());
        registry.require_token(None);
        registry.fault("/token", Fault::Body(token.into()));
        Fixture::new().pull(&name).await.unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logins() {
    let fixture = Fixture::new();
    let registry = Registry::start();
    let anyone = fixture.client.login(&registry.host(), &password("me", "secret")).await.unwrap();
    assert_eq!(anyone.identity_token, None);

    registry.require_basic("me", "secret");
    fixture.client.login(&registry.host(), &password("me", "secret")).await.unwrap();
    let error = fixture.client.login(&registry.host(), &password("me", "wrong")).await.unwrap_err();
    assert_eq!(error.class(), Class::Unauthorized);
    let expected = format!(r#"Get "{}/v2/": unauthorized: authentication required"#, registry.url());
    assert_eq!(text(&error), expected);

    registry.require_token(Some(("me", "secret")));
    let outcome = fixture.client.login(&registry.url(), &password("me", "secret")).await.unwrap();
    assert_eq!(outcome.identity_token.as_deref(), Some("identity-1"));
    let error = fixture.client.login(&registry.host(), &password("me", "wrong")).await.unwrap_err();
    let expected = format!(r#"Get "{}/v2/": unauthorized: incorrect username or password"#, registry.url());
    assert_eq!(text(&error), expected);
    let error = fixture.client.login("127.0.0.1:1", &password("me", "secret")).await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn loopback_may_have_a_certificate_of_its_own_making() {
    let registry = Registry::start_tls();
    let fixture = Fixture::new();
    registry.require_basic("me", "secret");
    let name = registry.push("app", "1", &sample());
    let outcome = fixture.pull_as(&name, password("me", "secret")).await.unwrap();
    assert!(fixture.read(&outcome, "top").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_are_for_others_than_loopback() {
    let registry = Registry::start();
    let image = sample();
    let name = registry.push("app", "1", &image);
    let proxies = Proxies { http: Some(registry.url()), https: Some(registry.url()), exceptions: None };
    let insecure_registries = vec!["registry.test:5000".to_owned()];
    let fixture = Fixture::with(ClientConfig { proxies, insecure_registries, ..settings() });
    // The registry plays the proxy: it refuses CONNECT and serves absolute URLs.
    fixture.pull("registry.test:5000/app:1").await.unwrap();
    assert!(registry.count("CONNECT", "registry.test:5000") >= 1);
    let request = registry.requests().into_iter().find(|request| request.method == "GET").unwrap();
    assert_eq!(request.header("host"), Some("registry.test:5000"));

    let dead = Some("http://127.0.0.1:1".to_owned());
    let proxies = Proxies { http: dead.clone(), https: dead, exceptions: Some("registry.test".into()) };
    Fixture::with(ClientConfig { proxies, ..settings() }).pull(&name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificates_go_to_their_registry_alone() {
    let registry = Registry::start_mutual_tls();
    let name = registry.push("app", "1", &sample());
    let error = Fixture::new().pull(&name).await.unwrap_err();
    assert!(text(&error).contains("ertificate"), "{}", text(&error));

    let parent = tempfile::tempdir().unwrap();
    let host = parent.path().join(registry.host());
    std::fs::create_dir(&host).unwrap();
    let (certificate, key) = registry.client_pem();
    std::fs::write(host.join("ca.crt"), registry.ca_pem()).unwrap();
    std::fs::write(host.join("client.cert"), certificate).unwrap();
    std::fs::write(host.join("client.key"), key).unwrap();
    let certificate_directories = vec![parent.path().join("nothing-here"), parent.path().to_owned()];
    let fixture = Fixture::with(ClientConfig { certificate_directories, ..settings() });
    fixture.pull(&name).await.unwrap();
    // Another registry with the same demand, which the first one points to, sees none.
    let other = Registry::start_mutual_tls();
    registry.fault("/manifests/", Fault::Redirect(format!("{}{{path}}", other.url())));
    fixture.pull(&format!("{}/other:1", registry.host())).await.unwrap_err();
    assert!(other.requests().is_empty());
}
