//! `LLBBridge`: builds that a client drives.
//!
//! buildx asks for one thing, a Dockerfile's result, and returns it. What reads or runs something in between (`ReadFile`,
//! `NewContainer`, …) has no result to look into here and says so.

use palan_buildkit::grpc::{Call, Code, Status, text};
use palan_buildkit::message::control::{StatusResponse, VertexWarning};
use palan_buildkit::message::gateway::{
    ApiCap, BUILD_ID, EvaluateRequest, EvaluateResponse, FrontendResult, InputsRequest, InputsResponse,
    PingRequest, PongResponse, Ref, ReturnRequest, ReturnResponse, SolveRequest, SolveResponse, WarnRequest,
    WarnResponse, method,
};
use palan_engine::build::Digest;
use std::sync::{Arc, PoisonError};

use super::{BuildKit, request};

/// How a client's work ended.
pub(super) type Returned = Result<Option<SolveRequest>, Status>;

/// Results that one build may name.
const MAX_RESULTS: usize = 64;

/// What the gateway can, in BuildKit's names.
const CAPS: &[&str] = &[
    "solve.base",
    "solve.inlinereturn",
    "readfile",
    "return",
    "returnmap",
    "importcaches",
    "proto.refarray",
    "frontend.inputs",
    "gateway.solve.metadata",
    "frontend.caps",
    "gateway.evaluate",
    "gateway.solve.evaluate",
    "gateway.warnings",
];

/// What sources, steps and exporters can. Steps in BuildKit's form are not taken; these are what a client looks for before it
/// offers something to its user.
const LLB_CAPS: &[&str] = &[
    "source.image",
    "source.local",
    "source.local.unique",
    "source.local.sessionid",
    "source.local.includepatterns",
    "source.local.followpaths",
    "source.local.excludepatterns",
    "source.local.sharedkeyhint",
    "source.http",
    "source.http.checksum",
    "exec.meta.base",
    "exec.meta.network",
    "exec.meta.ulimit",
    "exec.mount.bind",
    "exec.mount.cache",
    "exec.mount.cache.sharing",
    "exec.mount.tmpfs",
    "exec.mount.secret",
    "exec.mount.ssh",
    "platform",
    "constraints",
];

fn caps(names: &[&str]) -> Vec<ApiCap> {
    let cap = |name: &&str| ApiCap { id: (*name).to_owned(), enabled: true, ..ApiCap::default() };
    names.iter().map(cap).collect()
}

impl BuildKit {
    /// Any call of the gateway's.
    pub(super) async fn bridge(self: Arc<Self>, call: Call) -> Result<(), Status> {
        let Some(reference) = text(&call.metadata, BUILD_ID).map(str::to_owned) else {
            return Err(Status::new(Code::InvalidArgument, "no buildid found in context"));
        };
        let build = self.builds.get(&reference).await?;
        let method = call.method.clone();
        match method.as_str() {
            method::PING => {
                let workers = vec![self.worker().await?];
                call.unary(|_: PingRequest| async {
                    Ok(PongResponse { frontend_api_caps: caps(CAPS), llb_caps: caps(LLB_CAPS), workers })
                })
                .await
            }
            method::SOLVE => {
                call.unary(|request: SolveRequest| async move { self.bridge_solve(&reference, request) })
                    .await
            }
            method::RETURN => {
                let sender = build.returned.lock().unwrap_or_else(PoisonError::into_inner).take();
                let Some(sender) = sender else {
                    return Err(Status::new(Code::FailedPrecondition, "the build has its result already"));
                };
                call.unary(|request: ReturnRequest| async move {
                    let returned = match request.error {
                        Some(error) if error.code != 0 => Err(Status::from_wire(error)),
                        _ => self.chosen(request.result.unwrap_or_default()),
                    };
                    // A build that ends at this moment knows why.
                    let _ = sender.send(returned).await;
                    Ok(ReturnResponse {})
                })
                .await
            }
            method::INPUTS => call.unary(|_: InputsRequest| async { Ok(InputsResponse::default()) }).await,
            method::EVALUATE => {
                call.unary(|request: EvaluateRequest| async move {
                    let wanted = self.result(&request.reference)?;
                    self.evaluate(&build, wanted).await?;
                    Ok(EvaluateResponse {})
                })
                .await
            }
            method::WARN => {
                call.unary(|warning: WarnRequest| async move {
                    let warning = VertexWarning {
                        vertex: warning.digest,
                        level: warning.level,
                        short: warning.short,
                        detail: warning.detail,
                        url: warning.url,
                        info: warning.info,
                        ranges: warning.ranges,
                    };
                    build.tell(StatusResponse { warnings: vec![warning], ..StatusResponse::default() });
                    Ok(WarnResponse {})
                })
                .await
            }
            other => {
                let name = other.strip_prefix(method::SERVICE).unwrap_or(other);
                let text = format!("{name} of a build in progress is not supported by this version of Palan");
                Err(Status::new(Code::Unimplemented, text))
            }
        }
    }

    /// Names a result, which is made when it is wanted.
    fn bridge_solve(&self, build: &str, request: SolveRequest) -> Result<SolveResponse, Status> {
        // What can't be done is said now.
        request::frontend(&request.frontend, &request.frontend_opt, request.definition.as_ref())?;
        if !request.frontend_inputs.is_empty() {
            return Err(unsupported("an input of steps in BuildKit's form (frontend inputs)"));
        }
        let array = request.allow_result_array_ref;
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let known = results.keys().filter(|id| id.rsplit_once(':').is_some_and(|(owner, _)| owner == build));
        if known.count() >= MAX_RESULTS {
            let text = format!("a build can have {MAX_RESULTS} results at a time");
            return Err(Status::new(Code::ResourceExhausted, text));
        }
        let id =
            format!("{build}:{}", Digest::of(format!("{} {:?}", results.len(), request.frontend_opt)).hex());
        results.insert(id.clone(), request);
        drop(results);
        let mut result = FrontendResult::default();
        if array {
            result.single = Some(Ref { id, def: None });
        } else {
            result.ref_deprecated = Some(id);
        }
        Ok(SolveResponse { result: Some(result), ..SolveResponse::default() })
    }

    /// The result that a client returned; none: it wants nothing built.
    fn chosen(&self, result: FrontendResult) -> Returned {
        if !result.attestations.is_empty() {
            return Err(unsupported("an attestation"));
        }
        let several = result.several.map(|several| several.refs).unwrap_or_default();
        let several = several.into_values().map(|one| one.id);
        let deprecated = result.refs_deprecated.map(|several| several.refs).unwrap_or_default();
        let ids: Vec<String> = (result.single.map(|one| one.id).into_iter())
            .chain(result.ref_deprecated)
            .chain(several)
            .chain(deprecated.into_values())
            .filter(|id| !id.is_empty())
            .collect();
        match &ids[..] {
            [] => Ok(None),
            [id] => self.result(id).map(Some),
            _ => Err(unsupported("a build for several platforms at once")),
        }
    }

    fn result(&self, id: &str) -> Result<SolveRequest, Status> {
        let results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        results.get(id).cloned().ok_or_else(|| Status::new(Code::NotFound, format!("no such ref: {id}")))
    }

    /// Forgets the results of a build.
    pub(super) fn forget_results(&self, build: &str) {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        results.retain(|id, _| id.rsplit_once(':').is_none_or(|(owner, _)| owner != build));
    }
}

/// Docker has it, this version does not.
pub(super) fn unsupported(what: &str) -> Status {
    Status::new(Code::Unimplemented, format!("{what} is not supported by this version of Palan"))
}
