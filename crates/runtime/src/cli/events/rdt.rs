//! What `events` shows of the container's group in resctrl; nothing if it has none.

use std::path::{Path, PathBuf};

use palan_stdx::fs;
use serde::Serialize;

use super::super::Failure;
use crate::resctrl::ResourceGroup;

/// runc's structure of that name.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct IntelRdt {
    #[serde(skip_serializing_if = "Option::is_none")]
    l3_cache_info: Option<CacheInfo>,
    #[serde(skip_serializing_if = "String::is_empty")]
    l3_cache_schema_root: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    l3_cache_schema: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mem_bw_info: Option<BandwidthInfo>,
    #[serde(skip_serializing_if = "String::is_empty")]
    mem_bw_schema_root: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    mem_bw_schema: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    schemata: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mbm_stats: Option<Vec<BandwidthUse>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmt_stats: Option<Vec<CacheUse>>,
}

#[derive(Debug, PartialEq, Serialize)]
struct CacheInfo {
    cbm_mask: String,
    min_cbm_bits: u64,
    num_closids: u64,
}

#[derive(Debug, PartialEq, Serialize)]
struct BandwidthInfo {
    bandwidth_gran: u64,
    delay_linear: u64,
    min_bandwidth: u64,
    num_closids: u64,
}

#[derive(Debug, PartialEq, Serialize)]
struct BandwidthUse {
    mbm_total_bytes: u64,
    mbm_local_bytes: u64,
}

#[derive(Debug, PartialEq, Serialize)]
struct CacheUse {
    llc_occupancy: u64,
}

impl IntelRdt {
    pub(super) fn read(group: Option<&ResourceGroup>) -> Result<Self, Failure> {
        let Some(group) = group else { return Ok(Self::default()) };
        let own = group.directory();
        let lines = |path: PathBuf| -> Result<Vec<String>, Failure> {
            Ok(text(&path)?.lines().map(|line| line.trim().to_owned()).collect())
        };
        let (all, schemata) = (lines(group.root().join("schemata"))?, lines(own.join("schemata"))?);
        let of = |lines: &[String], resource: &str| {
            lines.iter().rfind(|line| line.contains(resource)).cloned().unwrap_or_default()
        };
        let mut shown = Self::default();
        let l3 = group.root().join("info/L3");
        if l3.is_dir() {
            shown.l3_cache_schema_root = of(&all, "L3");
            shown.l3_cache_schema = of(&schemata, "L3");
            shown.l3_cache_info = Some(CacheInfo {
                cbm_mask: text(&l3.join("cbm_mask"))?,
                min_cbm_bits: number(&l3.join("min_cbm_bits"))?,
                num_closids: number(&l3.join("num_closids"))?,
            });
        }
        let bandwidth = group.root().join("info/MB");
        if bandwidth.is_dir() {
            shown.mem_bw_schema_root = of(&all, "MB");
            shown.mem_bw_schema = of(&schemata, "MB");
            shown.mem_bw_info = Some(BandwidthInfo {
                bandwidth_gran: number(&bandwidth.join("bandwidth_gran"))?,
                delay_linear: number(&bandwidth.join("delay_linear"))?,
                min_bandwidth: number(&bandwidth.join("min_bandwidth"))?,
                num_closids: number(&bandwidth.join("num_closids"))?,
            });
        }
        shown.schemata = schemata;
        shown.monitor(group.root(), &group.monitored())?;
        Ok(shown)
    }

    /// What the group has used, for each cache.
    fn monitor(&mut self, root: &Path, group: &Path) -> Result<(), Failure> {
        let features = fs::if_exists(fs::read_to_string(&root.join("info/L3_MON/mon_features")));
        let Some(features) = features.map_err(|error| failed(&error))? else { return Ok(()) };
        let has = |feature: &str| features.lines().any(|line| line == feature);
        let counter = |place: &Path, feature: &str| {
            if has(feature) { number(&place.join(feature)) } else { Ok(0) }
        };
        let entries = fs::read_dir(&group.join("mon_data")).map_err(|error| failed(&error))?;
        let mut places: Vec<PathBuf> =
            entries.iter().map(std::fs::DirEntry::path).filter(|path| path.is_dir()).collect();
        places.sort();
        let (mut bandwidth, mut cache) = (Vec::new(), Vec::new());
        for place in &places {
            if has("mbm_total_bytes") || has("mbm_local_bytes") {
                bandwidth.push(BandwidthUse {
                    mbm_total_bytes: counter(place, "mbm_total_bytes")?,
                    mbm_local_bytes: counter(place, "mbm_local_bytes")?,
                });
            }
            if has("llc_occupancy") {
                cache.push(CacheUse { llc_occupancy: counter(place, "llc_occupancy")? });
            }
        }
        self.mbm_stats = Some(bandwidth).filter(|uses| !uses.is_empty());
        self.cmt_stats = Some(cache).filter(|uses| !uses.is_empty());
        Ok(())
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(palan_stdx::error_chain::to_string(error))
}

fn text(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).map_err(|error| failed(&error))
}

fn number(path: &Path) -> Result<u64, Failure> {
    let text = text(path)?;
    // Counters of a group that the processor has no room for are "Unavailable" for a while.
    if text == "Unavailable" {
        return Ok(0);
    }
    text.parse().map_err(|_| Failure::new(format!("{}: {text:?} is no number", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_shows_what_it_may_use_and_has_used() {
        let directory = tempfile::tempdir().unwrap();
        for (path, content) in [
            ("schemata", "L3:0=fff\nMB:0=100\n"),
            ("gold/schemata", "    L3:0=f\n    MB:0=20\n"),
            ("info/L3/cbm_mask", "fff\n"),
            ("info/L3/min_cbm_bits", "1\n"),
            ("info/L3/num_closids", "16\n"),
            ("info/L3_MON/mon_features", "llc_occupancy\nmbm_total_bytes\n"),
            ("gold/mon_data/mon_L3_00/llc_occupancy", "4096\n"),
            ("gold/mon_data/mon_L3_00/mbm_total_bytes", "Unavailable\n"),
        ] {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let group = ResourceGroup::for_test(directory.path().to_str().unwrap(), "gold");
        let shown = serde_json::to_value(IntelRdt::read(Some(&group)).unwrap()).unwrap();
        assert_eq!(
            shown,
            serde_json::json!({
                "l3_cache_info": {"cbm_mask": "fff", "min_cbm_bits": 1, "num_closids": 16},
                "l3_cache_schema_root": "L3:0=fff",
                "l3_cache_schema": "L3:0=f",
                "schemata": ["L3:0=f", "MB:0=20"],
                "mbm_stats": [{"mbm_total_bytes": 0, "mbm_local_bytes": 0}],
                "cmt_stats": [{"llc_occupancy": 4096}],
            })
        );
        let nothing = serde_json::to_string(&IntelRdt::read(None).unwrap()).unwrap();
        assert_eq!(nothing, "{}");
    }
}
