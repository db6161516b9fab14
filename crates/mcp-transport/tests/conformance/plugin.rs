//! The plugin that the suite asks for, on the SDK: what it has is in `plugin.json`, what it does is here.

use rmcp::model::*;
use rmcp::service::{RequestContext, SubscriptionContext, SubscriptionSink};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The smallest PNG there is.
const IMAGE: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8/5+hHgAHggJ/PchI7wAAAABJRU5ErkJggg==";

pub(crate) struct Plugin {
    has: Value,
    /// One tool, one prompt more than at first.
    more_tools: AtomicBool,
    more_prompts: AtomicBool,
    listening: Mutex<HashMap<u64, SubscriptionSink>>,
    next: AtomicU64,
    /// States that were given out, and the round that each is of. What is not here was tampered with.
    states: Mutex<HashMap<String, u32>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<T, ErrorData> {
    serde_json::from_value(value).map_err(|error| ErrorData::internal_error(error.to_string(), None))
}

fn text(text: impl Into<String>) -> Value {
    json!({"content": [{"type": "text", "text": text.into()}]})
}

fn form(message: &str, property: &str, kind: &str) -> Value {
    let schema = json!({"type": "object", "properties": {property: {"type": kind}}, "required": [property]});
    json!({"method": "elicitation/create", "params": {"message": message, "requestedSchema": schema}})
}

fn sampling(prompt: &str) -> Value {
    let message = json!({"role": "user", "content": {"type": "text", "text": prompt}});
    json!({"method": "sampling/createMessage", "params": {"messages": [message], "maxTokens": 100}})
}

fn roots() -> Value {
    json!({"method": "roots/list", "params": {}})
}

/// What is asked of the client before there is a result.
struct Asked {
    requests: Value,
    /// Of which round the state is that goes with it; none for no state.
    round: Option<u32>,
}

impl Plugin {
    pub(crate) fn new() -> Self {
        let has = include_str!("plugin.json").replace("@image", IMAGE);
        Self {
            has: serde_json::from_str(&has).unwrap(),
            more_tools: AtomicBool::new(false),
            more_prompts: AtomicBool::new(false),
            listening: Mutex::default(),
            next: AtomicU64::new(0),
            states: Mutex::default(),
        }
    }

    fn round(&self, state: Option<&str>) -> Result<u32, ErrorData> {
        let Some(state) = state else { return Ok(0) };
        let known = locked(&self.states).get(state).copied();
        known.ok_or_else(|| ErrorData::invalid_params("this state is not one that was given out", None))
    }

    /// What of its input a call still lacks, in the newer revision.
    fn lacks(
        &self,
        request: &CallToolRequestParams,
        can: &ClientCapabilities,
    ) -> Result<Option<Asked>, ErrorData> {
        let name = || form("What is your name?", "name", "string");
        let round = self.round(request.request_state.as_deref())?;
        let (requests, next) = match &*request.name {
            "test_input_required_result_elicitation" => (json!({"user_name": name()}), None),
            "test_elicitation" | "test_elicitation_sep1034_defaults" | "test_elicitation_sep1330_enums" => {
                let params = &self.has["questions"][&*request.name];
                (
                    json!({"q": {"method": "elicitation/create", "params": params}}),
                    None,
                )
            }
            "test_sampling" => (json!({"q": sampling("Hello")}), None),
            "test_input_required_result_sampling" => {
                let question = sampling("What is the capital of France?");
                (json!({"capital_question": question}), None)
            }
            "test_input_required_result_list_roots" => (json!({"client_roots": roots()}), None),
            "test_streaming_elicitation" => (
                json!({"streaming_elicitation": form("A value?", "value", "string")}),
                None,
            ),
            "test_input_required_result_request_state" | "test_input_required_result_tampered_state" => {
                let question = form("Please confirm", "ok", "boolean");
                (json!({"confirm": question}), Some(1))
            }
            "test_input_required_result_multiple_inputs" => {
                let greeting = sampling("A greeting");
                let all = json!({"user_name": name(), "greeting": greeting, "client_roots": roots()});
                (all, Some(1))
            }
            "test_input_required_result_multi_round" if round == 0 => (json!({"step1": name()}), Some(1)),
            "test_input_required_result_multi_round" => {
                let question = form("What is your favourite colour?", "color", "string");
                (json!({"step2": question}), Some(2))
            }
            "test_input_required_result_capabilities" => {
                let mut all = json!({});
                if can.elicitation.is_some() {
                    all["user_name"] = name();
                }
                if can.sampling.is_some() {
                    all["greeting"] = sampling("A greeting");
                }
                if can.roots.is_some() {
                    all["client_roots"] = roots();
                }
                (all, None)
            }
            _ => return Ok(None),
        };
        let responses = request.input_responses.as_ref();
        let mut keys = requests.as_object().into_iter().flat_map(|all| all.keys());
        let is_answered = keys.all(|key| {
            let response = responses.and_then(|responses| responses.get(key));
            response.is_some_and(Value::is_object)
        });
        // A round is over when its state comes back, and not by what is answered alone.
        let is_over = is_answered && next.is_none_or(|next| round >= next);
        Ok((!is_over).then_some(Asked {
            requests,
            round: next,
        }))
    }

    fn require(&self, asked: Asked) -> Result<InputRequiredResult, ErrorData> {
        let state = asked.round.map(|round| {
            let state = uuid::Uuid::new_v4().to_string();
            locked(&self.states).insert(state.clone(), round);
            state
        });
        Ok(InputRequiredResult::new(Some(typed(asked.requests)?), state))
    }

    /// Asks a client of the older revisions.
    async fn ask(
        &self,
        cx: &RequestContext<RoleServer>,
        method: &str,
        params: Value,
    ) -> Result<Value, ErrorData> {
        let request: ServerRequest = typed(json!({"method": method, "params": params}))?;
        let answer = cx.peer.send_request(request).await;
        let answer = answer.map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
        Ok(text(serde_json::to_string(&answer).unwrap_or_default()))
    }

    async fn log(&self, cx: &RequestContext<RoleServer>, level: LoggingLevel, what: &str) {
        let line = LoggingMessageNotificationParam::new(level, json!(what)).with_logger("plugin");
        let _ = cx.peer.notify_logging_message(line).await;
    }

    async fn change(&self, tools: bool, cx: &RequestContext<RoleServer>) {
        let flag = if tools {
            &self.more_tools
        } else {
            &self.more_prompts
        };
        flag.fetch_xor(true, Ordering::SeqCst);
        let listening: Vec<_> = locked(&self.listening).values().cloned().collect();
        for sink in listening {
            let _ = if tools {
                sink.notify_tool_list_changed().await
            } else {
                sink.notify_prompt_list_changed().await
            };
        }
        if cx.meta.client_capabilities().is_none() {
            let _ = if tools {
                cx.peer.notify_tool_list_changed().await
            } else {
                cx.peer.notify_prompt_list_changed().await
            };
        }
    }

    async fn call(
        &self,
        request: &CallToolRequestParams,
        cx: &RequestContext<RoleServer>,
    ) -> Result<Value, ErrorData> {
        let arguments = json!(request.arguments);
        let name = &*request.name;
        if let Some(result) = self.has["results"].get(name) {
            return Ok(result.clone());
        }
        let is_modern = cx.meta.client_capabilities().is_some();
        match name {
            "test_tool_with_logging" => {
                for what in [
                    "Tool execution started",
                    "Tool processing data",
                    "Tool execution completed",
                ] {
                    self.log(cx, LoggingLevel::Info, what).await;
                }
            }
            "test_logging_tool" => {
                if let Some(level) = cx.meta.log_level() {
                    self.log(cx, level, "it was wanted").await;
                }
            }
            "test_tool_with_progress" => {
                for progress in [0.0, 50.0, 100.0] {
                    if let Some(token) = cx.meta.get_progress_token() {
                        let told = ProgressNotificationParam::new(token, progress).with_total(100.0);
                        let _ = cx.peer.notify_progress(told.with_message("going on")).await;
                    }
                }
            }
            "test_sampling" if !is_modern => {
                let prompt = arguments["prompt"].as_str().unwrap_or_default();
                let mut params = sampling(prompt);
                return self
                    .ask(cx, "sampling/createMessage", params["params"].take())
                    .await;
            }
            "test_elicitation" | "test_elicitation_sep1034_defaults" | "test_elicitation_sep1330_enums"
                if !is_modern =>
            {
                let params = self.has["questions"][name].clone();
                return self.ask(cx, "elicitation/create", params).await;
            }
            "test_missing_capability" => {
                let can = cx.client_capabilities().unwrap_or_default();
                if can.sampling.is_none() {
                    let needed = typed(json!({"sampling": {}}))?;
                    return Err(ErrorData::missing_required_client_capability(needed));
                }
            }
            "test_trigger_tool_change" => self.change(true, cx).await,
            "test_trigger_prompt_change" => self.change(false, cx).await,
            _ if self.is_tool(name) => {}
            _ => return Err(ErrorData::invalid_params(format!("Unknown tool: {name}"), None)),
        }
        Ok(text(format!(
            "state-ok {arguments} {}",
            json!(request.input_responses)
        )))
    }

    fn is_tool(&self, name: &str) -> bool {
        let tools = self.has["tools"].as_array().into_iter().flatten();
        tools.into_iter().any(|tool| tool["name"] == name)
    }
}

#[allow(deprecated, reason = "the older revisions are served, too")]
impl ServerHandler for Plugin {
    fn get_info(&self) -> ServerInfo {
        let can = json!({
            "tools": {"listChanged": true}, "prompts": {"listChanged": true}, "completions": {}, "logging": {},
            "resources": {"listChanged": true, "subscribe": true},
        });
        ServerInfo::new(serde_json::from_value(can).unwrap())
            .with_server_info(Implementation::new("conformance", "1"))
            .with_instructions("A plugin for a test.")
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.supported_by(&self.get_info().capabilities))
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        locked(&self.listening).insert(key, context.sink().clone());
        context.cancelled().await;
        locked(&self.listening).remove(&key);
        Ok(())
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let mut tools = self.has["tools"].as_array().cloned().unwrap_or_default();
        if self.more_tools.load(Ordering::SeqCst) {
            tools.push(json!({"name": "one_more", "description": "Comes and goes"}));
        }
        for tool in &mut tools {
            if tool["inputSchema"].is_null() {
                tool["inputSchema"] = json!({"type": "object", "properties": {}});
            }
        }
        typed(json!({"tools": tools}))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        cx: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        if let Some(can) = cx.meta.client_capabilities()
            && let Some(asked) = self.lacks(&request, &can)?
        {
            return Ok(self.require(asked)?.into());
        }
        let result: CallToolResult = typed(self.call(&request, &cx).await?)?;
        Ok(result.into())
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        typed(json!({"resources": self.has["resources"]}))
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        typed(json!({"resourceTemplates": self.has["templates"]}))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let uri = request.uri.as_str();
        let of_template = uri
            .strip_prefix("test://template/")
            .and_then(|rest| rest.strip_suffix("/data"));
        let mut content = match (self.has["contents"].get(uri), of_template) {
            (Some(content), _) => content.clone(),
            (None, Some(id)) => {
                let text = json!({"id": id, "templateTest": true, "data": format!("Data for ID: {id}")});
                json!({"mimeType": "application/json", "text": text.to_string()})
            }
            (None, None) => {
                let why = format!("Resource not found: {uri}");
                return Err(ErrorData::resource_not_found(why, Some(json!({"uri": uri}))));
            }
        };
        content["uri"] = uri.into();
        let result: ReadResourceResult = typed(json!({"contents": [content]}))?;
        Ok(result.into())
    }

    async fn subscribe(
        &self,
        _: SubscribeRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn unsubscribe(
        &self,
        _: UnsubscribeRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        let mut prompts = self.has["prompts"].as_array().cloned().unwrap_or_default();
        if self.more_prompts.load(Ordering::SeqCst) {
            prompts.push(json!({"name": "one_more", "description": "Comes and goes"}));
        }
        typed(json!({"prompts": prompts}))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        let said = |text: String| json!([{"role": "user", "content": {"type": "text", "text": text}}]);
        let messages = match request.name.as_str() {
            "test_input_required_result_prompt" => {
                let responses = request.input_responses.as_ref();
                let Some(response) = responses.and_then(|all| all.get("user_context")) else {
                    let question = form("What context should the prompt use?", "context", "string");
                    let asked = Asked {
                        requests: json!({"user_context": question}),
                        round: None,
                    };
                    return Ok(self.require(asked)?.into());
                };
                said(format!("Prompt with context: {response}"))
            }
            "test_prompt_with_arguments" => {
                let arguments = request.arguments.unwrap_or_default();
                let argument = |name: &str| arguments.get(name).and_then(Value::as_str).unwrap_or_default();
                said(format!(
                    "Prompt with arguments: arg1='{}', arg2='{}'",
                    argument("arg1"),
                    argument("arg2")
                ))
            }
            name => match self.has["messages"].get(name) {
                Some(messages) => messages.clone(),
                None => return Err(ErrorData::invalid_params(format!("Unknown prompt: {name}"), None)),
            },
        };
        let result: GetPromptResult = typed(json!({"messages": messages}))?;
        Ok(result.into())
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        let values: Vec<String> = ["paris", "park", "party"].map(str::to_owned).into();
        let begun = &request.argument.value;
        let fitting: Vec<_> = values
            .into_iter()
            .filter(|value| value.starts_with(begun))
            .collect();
        typed(json!({"completion": {"values": fitting, "total": fitting.len(), "hasMore": false}}))
    }

    async fn set_level(
        &self,
        _: SetLevelRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }
}
