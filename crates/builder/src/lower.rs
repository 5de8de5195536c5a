//! From a Dockerfile to a plan.

use std::collections::{BTreeMap, BTreeSet};

use palan_context::remote;
use palan_dockerfile::ast::{self, Command, Dockerfile, Instruction, Script};
use palan_dockerfile::mount::{self, Kind};
use palan_dockerfile::scope::{Environment, Globals, Request, Scope, Values, is_proxy};
use palan_dockerfile::stages::{self, Origin};
use palan_dockerfile::{DockerfileError, Span, parse_instruction};
use palan_oci::{Digest, ImageConfig, Platform};

use crate::graph::{Copy, Input, Mount, MountKind, Op, Owner, Plan, Remote, Run, Source, Vertex};
use crate::image::Image;
use crate::mode::Mode;

/// How many times triggers of base images may bring new images.
const MAX_ROUNDS: usize = 32;

/// What a build is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Build<'a> {
    /// The Dockerfile.
    pub file: &'a Dockerfile,
    /// `--target`.
    pub target: Option<&'a str>,
    /// `--build-arg`.
    pub build_args: &'a Values,
    /// Where commands run.
    pub build_platform: &'a Platform,
    /// What the image is for.
    pub target_platform: &'a Platform,
    /// Names of `--build-context`.
    pub contexts: &'a BTreeSet<String>,
    /// What is known about images.
    pub images: &'a BTreeMap<ImageRequest, BaseImage>,
    /// `--no-cache`.
    pub no_cache: bool,
    /// `--no-cache-filter`: names of stages.
    pub no_cache_filter: &'a BTreeSet<String>,
    /// The network of commands that name none: a mode or a network's name.
    pub network: &'a str,
    /// `NAME:ADDRESS`: names that commands know.
    pub extra_hosts: &'a [String],
    /// Names of steps say for which platform they are: it is one of several.
    pub shows_platform: bool,
}

/// An image that a build needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageRequest {
    /// As the Dockerfile names it.
    pub name: String,
    /// For which platform.
    pub platform: String,
}

/// What is known about an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseImage {
    /// Its manifest.
    pub manifest: Digest,
    /// What it says.
    pub config: ImageConfig,
}

/// The result.
#[derive(Debug, Clone)]
pub enum Lowered {
    /// These images have to be known first. Then it is to be called again.
    Needs(Vec<ImageRequest>),
    /// The plan.
    Plan(Box<Plan>),
}

/// Makes a plan.
pub fn lower(build: &Build<'_>) -> Result<Lowered, DockerfileError> {
    build.file.directives.check_syntax()?;
    let last = build.file.stages.last().and_then(ast::Stage::id);
    let request = Request {
        build_args: build.build_args,
        build_platform: build.build_platform,
        target_platform: build.target_platform,
        target: build.target.or(last.as_deref()),
    };
    let globals = Globals::new(build.file, &request)?;
    let options = stages::Options { target: build.target, contexts: build.contexts, all: false };
    let mut file = build.file.clone();
    let mut triggered = BTreeSet::new();
    for _ in 0..MAX_ROUNDS {
        let graph = stages::resolve(&file, &globals, &options)?;
        let missing = missing(build, &graph);
        if !missing.is_empty() {
            return Ok(Lowered::Needs(missing));
        }
        if !trigger(build, &graph, &mut file, &mut triggered)? {
            let planner = Planner {
                build,
                file: &file,
                graph: &graph,
                globals: &globals,
                vertices: Vec::new(),
                steps: Vec::new(),
            };
            return planner.plan().map(|plan| Lowered::Plan(Box::new(plan)));
        }
    }
    Err(DockerfileError::new(Span::default(), "triggers of base images lead to ever new images"))
}

fn platform_of(build: &Build<'_>, resolved: &stages::Resolved) -> String {
    resolved.platform.clone().unwrap_or_else(|| build.target_platform.to_string())
}

fn missing(build: &Build<'_>, graph: &stages::Graph) -> Vec<ImageRequest> {
    let mut wanted = BTreeSet::new();
    for index in &graph.needed {
        let resolved = &graph.stages[*index];
        let platform = platform_of(build, resolved);
        let used = resolved.uses.iter().flat_map(|(_, origins)| origins);
        for origin in std::iter::once(&resolved.base).chain(used) {
            if let Origin::Image(name) = origin {
                wanted.insert(ImageRequest { name: name.clone(), platform: platform.clone() });
            }
        }
    }
    wanted.into_iter().filter(|request| !build.images.contains_key(request)).collect()
}

/// Puts the triggers of bases in front of the stages on them. True if there were any.
fn trigger(
    build: &Build<'_>,
    graph: &stages::Graph,
    file: &mut Dockerfile,
    done: &mut BTreeSet<usize>,
) -> Result<bool, DockerfileError> {
    let mut any = false;
    for index in &graph.needed {
        if !done.insert(*index) {
            continue;
        }
        let resolved = &graph.stages[*index];
        let triggers: Vec<String> = match &resolved.base {
            Origin::Image(name) => {
                let request = ImageRequest { name: name.clone(), platform: platform_of(build, resolved) };
                build
                    .images
                    .get(&request)
                    .map(|image| image.config.config.on_build.clone())
                    .unwrap_or_default()
            }
            Origin::Stage(base) => file.stages[*base].instructions.iter().filter_map(onbuild).collect(),
            Origin::Scratch | Origin::Context(_) => Vec::new(),
        };
        let span = file.stages[*index].span;
        let parsed: Result<Vec<Instruction>, DockerfileError> =
            triggers.iter().map(|text| parse_instruction(text, span)).collect();
        any |= !triggers.is_empty();
        file.stages[*index].instructions.splice(0..0, parsed?);
    }
    Ok(any)
}

fn onbuild(instruction: &Instruction) -> Option<String> {
    match &instruction.command {
        Command::Onbuild(text) => Some(text.clone()),
        _ => None,
    }
}

struct Planner<'a> {
    build: &'a Build<'a>,
    file: &'a Dockerfile,
    graph: &'a stages::Graph,
    globals: &'a Globals,
    vertices: Vec<Vertex>,
    steps: Vec<(String, Option<usize>)>,
}

/// A stage while its instructions are read, and what it leaves.
#[derive(Clone)]
struct State<'a> {
    scope: Scope<'a>,
    image: Image,
    files: Input,
}

/// What names in front of a step say.
struct Counter {
    stage: String,
    step: usize,
    steps: usize,
}

impl Counter {
    fn next(&mut self, text: &str) -> String {
        self.step += 1;
        let width = self.steps.to_string().len();
        let space = if self.stage.is_empty() { "" } else { " " };
        format!("[{}{space}{:>width$}/{}] {text}", self.stage, self.step, self.steps)
    }
}

impl<'a> Planner<'a> {
    fn plan(mut self) -> Result<Plan, DockerfileError> {
        let mut states: BTreeMap<usize, State<'a>> = BTreeMap::new();
        for index in &self.graph.needed {
            let state = self.stage(*index, &states)?;
            states.insert(*index, state);
        }
        let target = states.remove(&self.graph.target).ok_or_else(|| {
            // The target needs itself.
            DockerfileError::new(Span::default(), "the target is not part of its own build")
        })?;
        Ok(Plan {
            vertices: self.vertices,
            target: target.files,
            config: target.image.config,
            steps: self.steps,
        })
    }

    fn stage(
        &mut self,
        index: usize,
        states: &BTreeMap<usize, State<'a>>,
    ) -> Result<State<'a>, DockerfileError> {
        let stage = &self.file.stages[index];
        let resolved = &self.graph.stages[index];
        let platform = match &resolved.base {
            Origin::Stage(base) => states[base].image.config.platform().to_string(),
            _ => platform_of(self.build, resolved),
        };
        let mut counter = self.counter(index, resolved, &platform);
        let mut state = match &resolved.base {
            Origin::Stage(base) => self.on_stage(&states[base]),
            Origin::Scratch => self.fresh(Image::scratch(self.build.target_platform), Input::Scratch),
            Origin::Context(name) => {
                self.fresh(Image::scratch(self.build.target_platform), Input::Context(name.clone()))
            }
            Origin::Image(name) => {
                let text = format!("FROM {name}");
                let image = self.known(name, resolved, stage.span)?.clone();
                let files = self.image(name, image.manifest, counter.next(&text), stage.span);
                self.fresh(Image::on(&image.config), files)
            }
        };
        if resolved.is_replaced {
            return Ok(state);
        }
        let base = match (&resolved.base, &state.files) {
            (Origin::Image(_), Input::Vertex(vertex)) => Some(*vertex),
            _ => None,
        };
        self.steps.push((stage.text.clone(), base));
        let ignore_cache = self.build.no_cache
            || stage.id().is_some_and(|id| {
                self.build.no_cache_filter.iter().any(|name| name.eq_ignore_ascii_case(&id))
            });
        let mut uses: BTreeMap<usize, &[Origin]> = BTreeMap::new();
        uses.extend(resolved.uses.iter().map(|(number, origins)| (*number, origins.as_slice())));
        for (number, instruction) in stage.instructions.iter().enumerate() {
            let mut froms = Vec::new();
            for origin in uses.get(&number).copied().unwrap_or_default() {
                froms.push(self.from(origin, resolved, states, instruction.span)?);
            }
            self.instruction(instruction, froms, &mut state, &mut counter, ignore_cache)?;
        }
        Ok(state)
    }

    fn counter(&self, index: usize, resolved: &stages::Resolved, platform: &str) -> Counter {
        let stage = &self.file.stages[index];
        let does_something = |instruction: &&Instruction| {
            matches!(
                instruction.command,
                Command::Run(_) | Command::Copy { .. } | Command::Add { .. } | Command::Workdir(_)
            )
        };
        let steps = stage.instructions.iter().filter(does_something).count();
        let name = match self.file.stages.len() {
            1 => String::new(),
            _ => stage.id().unwrap_or_else(|| format!("stage-{index}")),
        };
        let name = match (self.build.shows_platform, name.is_empty()) {
            (false, _) => name,
            (true, true) => platform.to_owned(),
            (true, false) => format!("{platform} {name}"),
        };
        Counter {
            stage: name,
            step: 0,
            steps: steps + usize::from(matches!(resolved.base, Origin::Image(_))),
        }
    }

    fn fresh(&self, image: Image, files: Input) -> State<'a> {
        let base = Environment::of_image(&image.config.config.env);
        State { scope: Scope::new(self.file, self.globals, self.build.build_args, base), image, files }
    }

    fn on_stage(&self, base: &State<'a>) -> State<'a> {
        State { scope: base.scope.clone(), image: Image::on(&base.image.config), files: base.files.clone() }
    }

    fn known(
        &self,
        name: &str,
        resolved: &stages::Resolved,
        span: Span,
    ) -> Result<&'a BaseImage, DockerfileError> {
        let request = ImageRequest { name: name.to_owned(), platform: platform_of(self.build, resolved) };
        let image = self.build.images.get(&request);
        image.ok_or_else(|| {
            DockerfileError::new(span, format!("image {name} is not known for {}", request.platform))
        })
    }

    /// The vertex of an image; one for all who need it.
    fn image(&mut self, name: &str, manifest: Digest, title: String, span: Span) -> Input {
        let is_it = |vertex: &Vertex| matches!(&vertex.op, Op::Image { digest, .. } if *digest == manifest);
        let known = self.vertices.iter().position(is_it);
        Input::Vertex(known.unwrap_or_else(|| {
            let op = Op::Image { digest: manifest, name: name.to_owned() };
            self.push(title, span, op, Vec::new(), false)
        }))
    }

    fn push(&mut self, name: String, span: Span, op: Op, inputs: Vec<Input>, ignore_cache: bool) -> usize {
        self.vertices.push(Vertex { name, span, op, inputs, ignore_cache, hidden_env: Vec::new() });
        self.vertices.len() - 1
    }

    /// Where an instruction takes files from.
    fn from(
        &mut self,
        origin: &Origin,
        resolved: &stages::Resolved,
        states: &BTreeMap<usize, State<'a>>,
        span: Span,
    ) -> Result<Input, DockerfileError> {
        Ok(match origin {
            Origin::Scratch => Input::Scratch,
            Origin::Stage(stage) => states[stage].files.clone(),
            Origin::Context(name) => Input::Context(name.clone()),
            Origin::Image(name) => {
                let manifest = self.known(name, resolved, span)?.manifest;
                self.image(name, manifest, format!("FROM {name}"), span)
            }
        })
    }

    fn instruction(
        &mut self,
        instruction: &Instruction,
        froms: Vec<Input>,
        state: &mut State<'a>,
        counter: &mut Counter,
        ignore_cache: bool,
    ) -> Result<(), DockerfileError> {
        let span = instruction.span;
        let fail = |message: String| DockerfileError::new(span, message);
        let command = state.scope.step(instruction, &mut |_| {})?;
        let text = title(instruction);
        self.steps.push((text.clone(), None));
        let step = self.steps.len() - 1;
        if state.image.say(&command).map_err(fail)? {
            return Ok(());
        }
        let title = counter.next(&text);
        let base = state.files.clone();
        let vertex = match &command {
            Command::Workdir(path) => {
                let path = state.image.absolute(path);
                let path = if path.len() > 1 { path.trim_end_matches('/') } else { &path }.to_owned();
                path.clone_into(&mut state.image.config.config.working_dir);
                state.image.record(format!("WORKDIR {path}"), path != "/");
                if path == "/" {
                    return Ok(());
                }
                let op = Op::MakeDirectory { path, user: state.image.config.config.user.clone() };
                self.push(title, span, op, vec![base], ignore_cache)
            }
            Command::Run(run) => {
                let mounts = state.scope.mounts(run, span, &mut |_| {})?;
                let (mut run, inputs) = run_op(self.build, run, &mounts, froms, state).map_err(fail)?;
                // What its base is, whatever this stage says.
                run.platform = state.image.config.platform().to_string();
                let vertex =
                    self.push(title, span, Op::Run(run), [vec![base], inputs].concat(), ignore_cache);
                let proxies = self.build.build_args.iter().filter(|(name, _)| is_proxy(name));
                self.vertices[vertex].hidden_env =
                    proxies.map(|(name, value)| format!("{name}={value}")).collect();
                vertex
            }
            Command::Copy { files, parents, .. } => {
                if let Some(Ok(Some(_))) =
                    files.sources.iter().map(|text| remote::source(text)).find(is_remote)
                {
                    return Err(fail("source can't be a URL or a git ref for COPY".to_owned()));
                }
                let from = froms.into_iter().next().unwrap_or_else(|| Input::Context(String::new()));
                let source = |path: &String| Source { input: 1, path: path.clone(), unpack: false };
                let sources = files.sources.iter().map(source).collect();
                let copy = copy_op("COPY", files, sources, *parents, &mut state.image).map_err(fail)?;
                self.push(title, span, Op::Copy(copy), vec![base, from], ignore_cache)
            }
            Command::Add { .. } => {
                let (copy, remotes) = add_op(&command, &mut state.image).map_err(fail)?;
                let mut inputs = vec![base, Input::Context(String::new())];
                for (address, remote) in remotes {
                    let name = format!("[internal] load {}", remote::redacted(&address));
                    inputs.push(Input::Vertex(self.push(
                        name,
                        span,
                        Op::Remote(remote),
                        Vec::new(),
                        ignore_cache,
                    )));
                }
                self.push(title, span, Op::Copy(copy), inputs, ignore_cache)
            }
            // `say` took all others.
            _ => return Ok(()),
        };
        state.files = Input::Vertex(vertex);
        self.steps[step].1 = Some(vertex);
        Ok(())
    }
}

/// The instruction with its keyword in upper case, and the first line of a heredoc.
fn title(instruction: &Instruction) -> String {
    let rest = instruction.text.get(instruction.keyword.len()..).unwrap_or_default();
    let mut title = format!("{}{rest}", instruction.keyword.to_uppercase());
    if matches!(instruction.command, Command::Add { .. }) {
        title = title.split(' ').map(remote::redacted).collect::<Vec<_>>().join(" ");
    }
    if let Command::Run(run) = &instruction.command
        && let Some(heredoc) = run.heredocs.first()
    {
        let text = heredoc.content.trim();
        let first = text.lines().next().unwrap_or_default();
        let more = if text.lines().count() > 1 { "..." } else { "" };
        title.push_str(&format!(" ({first}{more})"));
    }
    title
}

fn is_remote(found: &Result<Option<remote::Remote>, remote::RemoteError>) -> bool {
    matches!(found, Ok(Some(_)))
}

/// An `ADD`: the copy, and what of it is somewhere else, which are its inputs from 2 on.
fn add_op(command: &Command, image: &mut Image) -> Result<(Copy, Vec<(String, Remote)>), String> {
    let Command::Add { files, checksum, keep_git_dir, unpack } = command else {
        return Err("not an ADD".to_owned());
    };
    if checksum.is_some() && files.sources.len() + files.inline.len() != 1 {
        return Err("checksum can't be specified for multiple sources".to_owned());
    }
    let mut sources = Vec::new();
    let mut remotes = Vec::new();
    for text in &files.sources {
        let (path, remote, unpacked) = match remote::source(text).map_err(|error| error.to_string())? {
            None => {
                if checksum.is_some() {
                    return Err("checksum requires HTTP(S) or Git sources".to_owned());
                }
                // Archives of the context are unpacked unless it is forbidden, others only if it is asked for.
                sources.push(Source { input: 1, path: text.clone(), unpack: unpack.unwrap_or(true) });
                continue;
            }
            Some(remote::Remote::Http(url)) => {
                let name = file_name(&url);
                let checksum = checksum.as_deref().map(str::parse).transpose();
                let checksum = checksum.map_err(|error| format!("invalid checksum: {error}"))?;
                (name.clone(), Remote::Http { url, name, checksum }, unpack.unwrap_or(false))
            }
            Some(remote::Remote::Git(git)) => {
                let given = git.checksum.clone().or_else(|| checksum.clone());
                if let (Some(left), Some(right)) = (&git.checksum, checksum)
                    && left != right
                {
                    return Err(format!("checksum mismatch {right:?} != {left:?}"));
                }
                if let (Some(left), Some(right)) = (git.keep_git_dir, keep_git_dir)
                    && left != *right
                {
                    return Err("inconsistent keep-git-dir configuration".to_owned());
                }
                if let Some(sum) =
                    given.as_ref().filter(|sum| !sum.bytes().all(|byte| byte.is_ascii_hexdigit()))
                {
                    return Err(format!("invalid checksum {sum} for Git URL, expected hex commit hash"));
                }
                let keep_git_dir = git.keep_git_dir.or(*keep_git_dir).unwrap_or(false);
                let git = remote::Git { checksum: given, keep_git_dir: Some(keep_git_dir), ..git };
                let remote = Remote::of_git(git);
                (".".to_owned(), remote, false)
            }
        };
        sources.push(Source { input: 2 + remotes.len(), path, unpack: unpacked });
        remotes.push((text.clone(), remote));
    }
    Ok((copy_op("ADD", files, sources, false, image)?, remotes))
}

/// The name of a heredoc that becomes a file must be no path: it could lead anywhere.
fn file_name_only(name: &str) -> Result<(), String> {
    match name {
        "." | ".." => Err(format!("the heredoc's name {name:?} can't be the name of a file")),
        _ if name.contains('/') => Err(format!("the heredoc's name {name:?} can't be the name of a file")),
        _ => Ok(()),
    }
}

/// What a download is called: the last part of its path.
fn file_name(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let path = path.split_once("://").map_or(path, |(_, rest)| rest);
    let name = path.split_once('/').and_then(|(_, path)| path.rsplit('/').next()).unwrap_or_default();
    match name {
        "" | "." | ".." => "__unnamed__".to_owned(),
        name => name.to_owned(),
    }
}

fn copy_op(
    keyword: &str,
    files: &ast::Files,
    sources: Vec<Source>,
    parents: bool,
    image: &mut Image,
) -> Result<Copy, String> {
    if let Some(mode) = &files.chmod {
        Mode::parse(mode)?;
    }
    files.inline.iter().try_for_each(|inline| file_name_only(&inline.name))?;
    let mut text = keyword.to_owned();
    let flags = [("--chown=", &files.chown), ("--chmod=", &files.chmod)];
    text.push_str(if parents { " --parents" } else { "" });
    for (flag, value) in flags {
        text.extend(value.iter().flat_map(|value| [" ", flag, value]));
    }
    for source in &files.sources {
        text.push(' ');
        text.push_str(&remote::redacted(source));
    }
    text.extend(files.inline.iter().flat_map(|inline| [" <<", &inline.name]));
    image.record(format!("{text} {} # buildkit", files.destination), true);
    Ok(Copy {
        sources,
        inline: files.inline.iter().map(|inline| (inline.name.clone(), inline.content.clone())).collect(),
        destination: image.absolute(&files.destination),
        owner: files.chown.clone(),
        mode: files.chmod.clone(),
        parents,
        exclude: files.exclude.clone(),
        link: files.link,
    })
}

/// A command, and the inputs behind the first one, which its mounts number from 1.
fn run_op(
    build: &Build<'_>,
    run: &ast::Run,
    mounts: &[mount::Mount],
    froms: Vec<Input>,
    state: &mut State<'_>,
) -> Result<(Run, Vec<Input>), String> {
    let mut program = None;
    let args = match run.script() {
        Script::Exec(arguments) => arguments,
        Script::Shell(text) => state.image.arguments(&ast::CommandLine::Shell(text)),
        Script::Program { name, content } => {
            file_name_only(&name)?;
            let path = format!("/dev/pipes/{name}");
            program = Some((name, content));
            vec![path]
        }
    };
    let mut env: Vec<String> =
        state.scope.environment().iter().map(|(name, value)| format!("{name}={value}")).collect();
    if !env.iter().any(|entry| entry.starts_with("PATH=")) {
        crate::image::set(&mut env, "PATH", crate::image::DEFAULT_PATH);
    }
    let mut froms = froms.into_iter();
    let mut inputs = Vec::new();
    let mut planned = Vec::new();
    for mount in mounts {
        let from = mount.from.is_some().then(|| froms.next()).flatten();
        planned.push(mount_op(mount, from, &mut inputs, &state.image)?);
    }
    // With the arguments that were declared: they are in the environment, so they are part of what was run.
    let declared = state.scope.arguments();
    let mut named: Vec<(&str, &str)> = Vec::new();
    for argument in declared.iter().filter(|argument| !is_proxy(&argument.name)) {
        named.retain(|(name, _)| *name != argument.name);
        named.push((&argument.name, argument.value.as_deref().unwrap_or_default()));
    }
    let mut words: Vec<String> = named.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if !words.is_empty() {
        words.insert(0, format!("|{}", named.len()));
    }
    words.extend(args.iter().cloned());
    state.image.record(format!("RUN {} # buildkit", words.join(" ")), true);
    let config = &state.image.config.config;
    let run = Run {
        args,
        env,
        cwd: if config.working_dir.is_empty() { "/".to_owned() } else { config.working_dir.clone() },
        user: config.user.clone(),
        program,
        mounts: planned,
        network: run.network,
        default_network: default_network(run.network, build.network),
        extra_hosts: build.extra_hosts.to_vec(),
        security: run.security,
        devices: run.devices.iter().map(|device| (device.name.clone(), device.required)).collect(),
        shell: state.image.shell(),
        platform: String::new(),
    };
    Ok((run, inputs))
}

/// What a command without a network of its own gets, in one way of saying it.
fn default_network(network: ast::Network, of_build: &str) -> String {
    match (network, of_build) {
        (ast::Network::Default, "default" | "bridge") | (ast::Network::None | ast::Network::Host, _) => {
            String::new()
        }
        (ast::Network::Default, of_build) => of_build.to_owned(),
    }
}

fn mount_op(
    mount: &mount::Mount,
    from: Option<Input>,
    inputs: &mut Vec<Input>,
    image: &Image,
) -> Result<Mount, String> {
    let target = || {
        let target = image.absolute(&mount.target);
        match target.trim_end_matches('/') {
            "" => Err(format!("invalid mount target {target:?}")),
            target => Ok(target.to_owned()),
        }
    };
    let source = || format!("/{}", mount.source.trim_start_matches('/'));
    let owner = |mode| Owner {
        mode: mount.mode.unwrap_or(mode),
        uid: mount.uid.unwrap_or(0),
        gid: mount.gid.unwrap_or(0),
    };
    let mut input = |from: Input| {
        inputs.push(from);
        inputs.len()
    };
    let required = mount.required;
    let (target, kind) = match mount.kind {
        Kind::Bind => {
            let input = input(from.unwrap_or_else(|| Input::Context(String::new())));
            (Some(target()?), MountKind::Bind { input, source: source() })
        }
        Kind::Cache => {
            let target = target()?;
            let id = mount.id.clone().unwrap_or_else(|| target.clone());
            let seed = from.map(|from| (input(from), source()));
            (Some(target), MountKind::Cache { id, sharing: mount.sharing, seed, owner: owner(0o755) })
        }
        Kind::Tmpfs => (Some(target()?), MountKind::Tmpfs { size: mount.size }),
        Kind::Secret => {
            let base = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
            let named =
                Some(mount.source.clone()).filter(|source| !source.is_empty()).or_else(|| mount.id.clone());
            let id = named.unwrap_or_else(|| base(&mount.target));
            let path = match (mount.target.as_str(), &mount.env) {
                ("", Some(_)) => None,
                ("", None) => Some(format!("/run/secrets/{}", base(&id))),
                _ => Some(target()?),
            };
            let env = mount.env.as_ref().map(|name| if name.is_empty() { id.clone() } else { name.clone() });
            (path, MountKind::Secret { id, env, required, owner: owner(0o400) })
        }
        Kind::Ssh => {
            let id = mount.id.clone().unwrap_or_else(|| "default".to_owned());
            let path = if mount.target.is_empty() {
                let number = inputs.len();
                format!("/run/buildkit/ssh_agent.{number}")
            } else {
                target()?
            };
            (Some(path), MountKind::Ssh { id, required, owner: owner(0o600) })
        }
    };
    Ok(Mount { target, read_only: mount.read_only, kind })
}

#[cfg(test)]
mod tests;
