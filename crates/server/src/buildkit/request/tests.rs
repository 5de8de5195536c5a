//! Attributes as clients send them, and what is refused.

use super::*;

fn attrs(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn parsed(entries: &[(&str, &str)]) -> Wanted {
    parse(&attrs(entries), &[], &["network.host".to_owned()]).expect("attributes")
}

fn refused(entries: &[(&str, &str)]) -> String {
    parse(&attrs(entries), &[], &[]).expect_err("refused").message
}

#[test]
fn what_buildx_says() {
    let wanted = parsed(&[
        ("filename", "Dockerfile.dev"),
        ("build-arg:A", "1"),
        ("label:l", "v"),
        ("target", "x"),
        ("platform", "linux/amd64"),
        ("no-cache", "a,b"),
        ("image-resolve-mode", "local"),
        ("add-hosts", "a=1.2.3.4,b=[::1],c=host-gateway"),
        ("shm-size", "1048576"),
        ("ulimit", "nofile=10:20,nproc=5"),
        ("cgroup-parent", "/x"),
        ("force-network-mode", "host"),
        ("frontend.caps", "moby.buildkit.frontend.contexts+forward"),
        ("context:other", "local:other"),
        ("context:base", "docker-image://alpine:3"),
        ("local-sessionid:context", "s2"),
        ("sharedkey:localdir:other", "key"),
        ("vcs:localdir:context", "."),
        ("cache-imports", r#"[{"Type":"registry","Attrs":{"ref":"a/b"}}]"#),
        ("cache-from", "c/d"),
    ]);
    let request = wanted.request;
    assert_eq!(wanted.filename, "Dockerfile.dev");
    assert_eq!(wanted.dockerfile.as_deref(), Some("dockerfile"));
    let session = Some("s2".to_owned());
    let context = ContextDirectory { name: "context".to_owned(), session, shared_key: None };
    assert_eq!(wanted.context, MainContext::Directory(context));
    assert_eq!(wanted.directories["other"].shared_key.as_deref(), Some("key"));
    assert_eq!(request.args, attrs(&[("A", "1")]));
    assert_eq!(request.labels, attrs(&[("l", "v")]));
    assert_eq!(
        (request.target.as_deref(), &request.platforms[..]),
        (Some("x"), &["linux/amd64".to_owned()][..])
    );
    assert_eq!(request.no_cache_filter, ["a".to_owned(), "b".to_owned()].into());
    assert!(!request.no_cache && !request.pull);
    assert_eq!(request.steps.extra_hosts, ["a:1.2.3.4", "b:::1", "c:host-gateway"]);
    assert_eq!(request.steps.shm_size, 1 << 20);
    assert_eq!(request.steps.network, "host");
    assert_eq!(request.steps.resources.cgroup_parent, "/x");
    let limits: Vec<_> =
        request.steps.resources.ulimits.iter().map(|limit| (limit.soft, limit.hard)).collect();
    assert_eq!(limits, [(10, 20), (5, 5)]);
    assert_eq!(request.image_contexts, attrs(&[("base", "alpine:3")]));
    let caches: Vec<_> = request.cache_from.iter().map(|cache| cache.attributes["ref"].as_str()).collect();
    assert_eq!(caches, ["c/d", "a/b"]);
}

#[test]
fn contexts_elsewhere() {
    let upload = parsed(&[("context", "http://buildkit-session/abc")]);
    assert_eq!(upload.context, MainContext::Upload("/abc".to_owned()));
    assert_eq!(upload.dockerfile, None, "it is in the archive");
    let url = parsed(&[("context", "https://x/y.tar"), ("dockerfilekey", "dockerfile"), ("no-cache", "")]);
    assert_eq!(url.context, MainContext::Url("https://x/y.tar".to_owned()));
    assert_eq!(url.dockerfile.as_deref(), Some("dockerfile"));
    assert!(url.request.no_cache);
}

#[test]
fn what_is_refused_is_named() {
    for (entries, expected) in [
        (&[("nonsense", "1")][..], "the frontend attribute \"nonsense\" is not supported"),
        (&[("x:y", "1")], "the frontend attribute \"x:y\" is not supported"),
        (&[("hostname", "h")], "\"hostname\""),
        (&[("contextsubdir", "d")], "\"contextsubdir\""),
        (&[("multi-platform", "perhaps")], "invalid boolean value \"perhaps\" for multi-platform"),
        (&[("attest:provenance", "mode=most")], "invalid mode"),
        (&[("requestid", "frontend.lint")], "unsupported request frontend.lint"),
        (&[("frontend.caps", "x.y+forward")], "the frontend capability x.y"),
        (&[("image-resolve-mode", "x")], "invalid image-resolve-mode: x"),
        (&[("force-network-mode", "host")], "network.host is not allowed"),
        (&[("force-network-mode", "x")], "the network mode x"),
        (&[("add-hosts", "a")], "invalid value \"a\""),
        (&[("ulimit", "nofile=x")], "invalid value \"nofile=x\""),
        (&[("shm-size", "64m")], "failed to parse shm-size"),
        (&[("cache-imports", "{")], "failed to unmarshal cache-imports"),
        (&[("context:a", "oci-layout://x")], "the build context \"a\" of the kind \"oci-layout\""),
        (&[("context:a::linux/arm64", "local:a")], "of a single platform"),
        (&[("build-arg:BUILDKIT_SYNTAX", "me/frontend")], "\"me/frontend\""),
    ] {
        let error = refused(entries);
        assert!(error.contains(expected), "{error} instead of {expected}");
    }
    assert!(parse(&BTreeMap::new(), &[], &["device".to_owned()]).is_err());
    parsed(&[("attest:provenance", "disabled=true")]);
    parsed(&[("build-arg:BUILDKIT_INLINE_CACHE", "1")]);
}

#[test]
fn frontends() {
    let source = |image: &str| attrs(&[("source", image)]);
    assert!(frontend("dockerfile.v0", &BTreeMap::new(), None).is_ok());
    for image in
        ["docker/dockerfile:1", "docker.io/docker/dockerfile@sha256:ab", "docker/dockerfile-upstream:master"]
    {
        assert!(frontend("gateway.v0", &source(image), None).is_ok(), "{image}");
    }
    assert!(frontend("gateway.v0", &source("docker/dockerfilex"), None).is_err());
    assert!(frontend("", &BTreeMap::new(), None).is_err());
    assert!(frontend("x", &BTreeMap::new(), None).is_err());
    let steps = Definition { def: vec![bytes::Bytes::from_static(b"x")], source: None };
    assert!(frontend("dockerfile.v0", &BTreeMap::new(), Some(&steps)).is_err());
}
