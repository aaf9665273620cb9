//! Images: the full name of a reference, pulling what is missing, and what an image says about its containers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::{CreateImageInfo, ImageConfig};
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;

use super::engine::{has_status, words};

/// Progress is told so often at most: every telling goes to all nodes.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// The reference with its tag: the Engine would pull every tag of a name without one.
pub fn full_reference(reference: &str) -> String {
    let last = reference.rsplit('/').next().unwrap_or_default();
    if reference.contains('@') || last.contains(':') { reference.to_owned() } else { format!("{reference}:latest") }
}

/// What the image says, pulled first where it is missing. The error is a sentence.
pub async fn ensure(docker: &Docker, reference: &str, tell: impl Fn(String)) -> Result<ImageConfig, String> {
    let inspected = match docker.inspect_image(reference).await {
        Err(error) if has_status(&error, 404) => {
            pull(docker, reference, tell).await.map_err(|reason| format!("No such image: {reference}: {reason}"))?;
            docker.inspect_image(reference).await
        }
        inspected => inspected,
    };
    let image = inspected.map_err(|error| format!("look at image {reference}: {}", words(&error)))?;
    Ok(image.config.unwrap_or_default())
}

async fn pull(docker: &Docker, reference: &str, tell: impl Fn(String)) -> Result<(), String> {
    tell(format!("pulling {reference}"));
    let options = CreateImageOptionsBuilder::new().from_image(reference).build();
    let mut stream = std::pin::pin!(docker.create_image(Some(options), None, None));
    let (mut layers, mut told, mut told_at) = (Layers::default(), None, Instant::now());
    while let Some(info) = stream.next().await {
        layers.take(&info.map_err(|error| words(&error))?);
        let percent = layers.percent();
        if percent != told && told_at.elapsed() >= TELL_EVERY {
            tell(format!("pulling {reference} ({} %)", percent.unwrap_or(0)));
            (told, told_at) = (percent, Instant::now());
        }
    }
    Ok(())
}

/// How much of each layer is there.
#[derive(Default)]
struct Layers(BTreeMap<String, (i64, i64)>);

impl Layers {
    fn take(&mut self, info: &CreateImageInfo) {
        let Some(id) = &info.id else { return };
        match info.status.as_deref() {
            Some("Downloading") => {
                let detail = info.progress_detail.clone().unwrap_or_default();
                if let (Some(current), Some(total)) = (detail.current, detail.total) {
                    self.0.insert(id.clone(), (current, total));
                }
            }
            Some("Download complete" | "Pull complete") => {
                if let Some((current, total)) = self.0.get_mut(id) {
                    *current = *total;
                }
            }
            _ => {}
        }
    }

    /// None before the first size is known.
    fn percent(&self) -> Option<i64> {
        let (current, total) = self.0.values().fold((0, 0), |sum, layer| (sum.0 + layer.0, sum.1 + layer.1));
        (total > 0).then(|| current * 100 / total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::ProgressDetail;

    #[test]
    fn a_name_without_a_tag_means_latest() {
        assert_eq!(full_reference("busybox"), "busybox:latest");
        assert_eq!(full_reference("localhost:5000/team/app"), "localhost:5000/team/app:latest");
        assert_eq!(full_reference("localhost:5000/app:1.2"), "localhost:5000/app:1.2");
        assert_eq!(full_reference("app@sha256:ab"), "app@sha256:ab");
    }

    #[test]
    fn progress_is_over_all_layers() {
        let info = |id: &str, status: &str, detail: Option<(i64, i64)>| CreateImageInfo {
            id: Some(id.to_owned()),
            status: Some(status.to_owned()),
            progress_detail: detail
                .map(|(current, total)| ProgressDetail { current: Some(current), total: Some(total) }),
            ..CreateImageInfo::default()
        };
        let mut layers = Layers::default();
        layers.take(&info("latest", "Pulling from library/nginx", None));
        assert_eq!(layers.percent(), None);
        layers.take(&info("a", "Downloading", Some((10, 100))));
        layers.take(&info("b", "Downloading", Some((0, 100))));
        assert_eq!(layers.percent(), Some(5));
        layers.take(&info("a", "Download complete", None));
        layers.take(&info("b", "Extracting", Some((3, 9))));
        assert_eq!(layers.percent(), Some(50), "extracting counts other bytes");
    }
}
