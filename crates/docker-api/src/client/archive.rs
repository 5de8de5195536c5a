//! Requests that bring archives, and those about a container's files.

use super::{Body, Client, ClientError, Query, Request, Response, path_escape};
use crate::types::{ContainerConfig, FilesystemChange, IdResponse, PATH_STAT_HEADER, PathStat, Platform};
use std::io::Read;

/// What `POST /commit` makes of a container.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions<'a> {
    /// Name or id of the container.
    pub container: &'a str,
    /// The name of the new image, may be empty.
    pub repository: &'a str,
    /// Its tag, may be empty.
    pub tag: &'a str,
    /// The remark in its history.
    pub comment: &'a str,
    /// Who makes it.
    pub author: &'a str,
    /// Dockerfile instructions to apply.
    pub changes: &'a [String],
    /// Don't freeze the container meanwhile.
    pub no_pause: bool,
}

/// A platform (`os/arch[/variant]`) as the newer endpoints want it: a JSON object.
pub fn platform_json(text: &str) -> String {
    let mut parts = text.splitn(3, '/').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    let (os, architecture, variant) = (next(), next(), next());
    let platform = Platform { architecture, os, variant, ..Platform::default() };
    // A struct of strings always has a form.
    serde_json::to_string(&platform).unwrap_or_default()
}

impl Client {
    /// `GET /containers/{id}/changes`.
    pub fn container_changes(&self, id: &str) -> Result<Vec<FilesystemChange>, ClientError> {
        let path = format!("/containers/{}/changes", path_escape(id));
        // Old daemons answer null where nothing changed.
        let changes: Option<Vec<FilesystemChange>> = self.fetch(Request::new("GET", path, &Query::new()))?;
        Ok(changes.unwrap_or_default())
    }

    /// `GET /containers/{id}/export`: a tar.
    pub fn export_container(&self, id: &str) -> Result<Body, ClientError> {
        let path = format!("/containers/{}/export", path_escape(id));
        Ok(self.send(Request::new("GET", path, &Query::new()))?.into_body())
    }

    /// `HEAD /containers/{id}/archive`: what is at a path.
    pub fn stat_path(&self, id: &str, path: &str) -> Result<PathStat, ClientError> {
        path_stat(&self.send(archive_request("HEAD", id, path))?)
    }

    /// `GET /containers/{id}/archive`: what is at a path, and its content as a tar.
    pub fn read_path(&self, id: &str, path: &str) -> Result<(PathStat, Body), ClientError> {
        let response = self.send(archive_request("GET", id, path))?;
        Ok((path_stat(&response)?, response.into_body()))
    }

    /// `PUT /containers/{id}/archive`: unpacks a tar in a directory. Nothing replaces a directory by something else or the other
    /// way round. With `to_user` all belongs to the container's user.
    pub fn write_path(
        &self,
        id: &str,
        path: &str,
        to_user: bool,
        tar: &mut dyn Read,
    ) -> Result<(), ClientError> {
        let query = Query::new().with("path", path).with("noOverwriteDirNonDir", "true");
        let query = if to_user { query.with("copyUIDGID", "true") } else { query };
        let request = Request::new("PUT", format!("/containers/{}/archive", path_escape(id)), &query);
        self.execute(request.stream(tar, "application/x-tar"))
    }

    /// `POST /commit`. The id of the image.
    pub fn commit_container(&self, options: &CommitOptions<'_>) -> Result<String, ClientError> {
        let mut query = Query::new()
            .with("container", options.container)
            .with_some("repo", Some(options.repository))
            .with_some("tag", Some(options.tag))
            .with_some("comment", Some(options.comment))
            .with_some("author", Some(options.author));
        for change in options.changes {
            query = query.with("changes", change);
        }
        if options.no_pause {
            query = query.with("pause", "0");
        }
        let config: Option<&ContainerConfig> = None;
        let answer: IdResponse = self.fetch(Request::new("POST", "/commit", &query).json(&config))?;
        Ok(answer.id)
    }

    /// `GET /images/get`: an archive of images. The platforms are `os/arch[/variant]`.
    pub fn save_images(&self, names: &[String], platforms: &[String]) -> Result<Body, ClientError> {
        let mut query = Query::new();
        for name in names {
            query = query.with("names", name);
        }
        for platform in platforms {
            query = query.with("platform", &platform_json(platform));
        }
        Ok(self.send(Request::new("GET", "/images/get", &query))?.into_body())
    }
}

fn archive_request(method: &'static str, id: &str, path: &str) -> Request<'static> {
    let query = Query::new().with("path", path);
    Request::new(method, format!("/containers/{}/archive", path_escape(id)), &query)
}

fn path_stat(response: &Response) -> Result<PathStat, ClientError> {
    let stat = response.header(PATH_STAT_HEADER).and_then(PathStat::from_header);
    stat.ok_or_else(|| ClientError::Protocol {
        request: "the archive of a container".to_owned(),
        problem: format!("no valid header {PATH_STAT_HEADER}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_objects() {
        assert_eq!(
            platform_json("linux/arm64/v8"),
            r#"{"architecture":"arm64","os":"linux","variant":"v8"}"#
        );
        assert_eq!(platform_json("linux/amd64"), r#"{"architecture":"amd64","os":"linux"}"#);
    }
}
