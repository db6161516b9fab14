//! What a plugin offers, read and kept up to date.

use crate::event::Event;
use crate::greet::ask;
use crate::live::tell;
use crate::message::{Object, Raw, raw};
use crate::plugin::{Lists, Plugin, Wire};
use crate::revision::Revision;
use serde_json::value::RawValue;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// All of one kind of list, in bytes, and in pages.
const LIST_BYTES_MAX: usize = 8 * 1024 * 1024;
const LIST_PAGES_MAX: usize = 200;
/// The least time between two readings of a plugin's lists.
const LISTS_PAUSE: Duration = Duration::from_millis(50);
/// The time before changes are listened for again, when that was broken off.
const LISTEN_PAUSE: Duration = Duration::from_secs(10);
/// A subscription lasts as long as it lasts.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

pub(crate) async fn read_lists(plugin: &Arc<Plugin>) -> Result<(), String> {
    let can = plugin.capabilities();
    let mut lists = Lists::default();
    if can.tools.is_some() {
        lists.tools = read_list(plugin, "tools/list", "tools").await?;
        if plugin.revision() == Revision::Modern
            && let Some(Wire::Remote(remote)) = plugin.wire()
        {
            remote.learn(&mut lists.tools, |message| {
                tell(plugin, |plugin| Event::Warning { plugin, message });
            });
        }
    }
    if can.prompts.is_some() {
        lists.prompts = read_list(plugin, "prompts/list", "prompts").await?;
    }
    if can.resources.is_some() {
        lists.resources = read_list(plugin, "resources/list", "resources").await?;
        // Not every server with resources has templates, and those that have none say so in many ways.
        let templates = read_list(plugin, "resources/templates/list", "resourceTemplates").await;
        lists.templates = templates.unwrap_or_default();
    }
    *plugin
        .lists
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner) = lists;
    Ok(())
}

async fn read_list(plugin: &Plugin, method: &str, key: &str) -> Result<Vec<Raw>, String> {
    let (mut all, mut bytes): (Vec<Raw>, usize) = (Vec::new(), 0);
    let mut cursor: Option<Raw> = None;
    let limits = &plugin.options.limits;
    for _ in 0..LIST_PAGES_MAX {
        let mut params = Object::default();
        if let Some(cursor) = cursor.take() {
            params.set("cursor", cursor);
        }
        let result = ask(plugin, method, params, limits.call_max).await?;
        let malformed = || format!("its answer to {method} is malformed");
        let page = Object::parse(&result).ok_or_else(malformed)?;
        let entries = page.get(key).ok_or_else(malformed)?;
        let entries: Vec<&RawValue> = serde_json::from_str(entries.get()).map_err(|_| malformed())?;
        for entry in entries {
            bytes += entry.get().len();
            if all.len() >= limits.entries_max || bytes > LIST_BYTES_MAX {
                let message = format!(
                    "{method} gives more than {} entries or {LIST_BYTES_MAX} bytes: the rest is left out",
                    limits.entries_max
                );
                tell(plugin, |plugin| Event::Warning { plugin, message });
                return Ok(all);
            }
            all.push(entry.to_owned());
        }
        cursor = page
            .get("nextCursor")
            .filter(|next| next.get() != "null")
            .map(ToOwned::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    Ok(all)
}

pub(crate) async fn keep_lists(plugin: &Arc<Plugin>) -> String {
    loop {
        plugin.lists_changed.notified().await;
        // What comes meanwhile is one change.
        sleep(LISTS_PAUSE).await;
        if let Err(message) = read_lists(plugin).await {
            tell(plugin, |plugin| Event::Warning { plugin, message });
            continue;
        }
        if let Some(gateway) = plugin.gateway.upgrade() {
            gateway.lists_changed();
        }
    }
}

/// In the newer revision changes are told on a stream that is asked for; in the older ones resources are subscribed to
/// one by one.
pub(crate) async fn keep_subscriptions(plugin: &Arc<Plugin>) -> String {
    let mut subscribed = plugin.subscribed.subscribe();
    let can = plugin.capabilities();
    let changes =
        |listed: &Option<crate::revision::Listed>| listed.as_ref().is_some_and(|list| list.list_changed);
    let can_subscribe = can
        .resources
        .as_ref()
        .is_some_and(|resources| resources.subscribe);
    let mut known: std::collections::BTreeSet<String> = Default::default();
    loop {
        let wanted = subscribed.borrow_and_update().clone();
        if plugin.revision() == Revision::Legacy {
            if can_subscribe {
                let gone = known
                    .difference(&wanted)
                    .map(|uri| (uri, "resources/unsubscribe"));
                let new = wanted.difference(&known).map(|uri| (uri, "resources/subscribe"));
                for (uri, method) in gone.chain(new) {
                    let mut params = Object::default();
                    params.set("uri", raw(uri));
                    if let Err(message) = ask(plugin, method, params, plugin.options.limits.call_max).await {
                        tell(plugin, |plugin| Event::Warning { plugin, message });
                    }
                }
            }
            known = wanted;
            if subscribed.changed().await.is_err() {
                return pending().await;
            }
            continue;
        }
        let mut filter = serde_json::Map::new();
        for (key, is_wanted) in [
            ("toolsListChanged", changes(&can.tools)),
            ("promptsListChanged", changes(&can.prompts)),
            ("resourcesListChanged", changes(&can.resources)),
        ] {
            if is_wanted {
                filter.insert(key.into(), true.into());
            }
        }
        if can_subscribe && !wanted.is_empty() {
            filter.insert("resourceSubscriptions".into(), wanted.into_iter().collect());
        }
        let filter = raw(&filter);
        let listening = async {
            while filter.get() != "{}" {
                let mut params = Object::default();
                params.set("notifications", filter.clone());
                let never = CancellationToken::new();
                let method = "subscriptions/listen";
                let ended = plugin.call(method, params, None, FOR_EVER, &never).await;
                // Ended by the plugin, it is not asked for again: what it has to say was said.
                if ended.is_ok() {
                    break;
                }
                // Broken on the way, it is; and what changed meanwhile is looked up.
                sleep(LISTEN_PAUSE).await;
                plugin.lists_changed.notify_one();
            }
            pending::<()>().await;
        };
        tokio::select! {
            () = listening => {}
            changed = subscribed.changed() => if changed.is_err() {
                return pending().await;
            },
        }
    }
}
