//! The tools behind the SDK: which call is which, and whose.

use super::answer::{Answer, Members, Refusal, members, parse, tool_result};
use super::daemon::Again;
use super::held::Lease;
use super::waits::Call;
use super::{Shared, catalog, keeper};
use agentd_protocol::Method;
use agentd_protocol::requests::NoParams;
use agentd_protocol::results::WhoAmI;
use rmcp::RoleServer;
use rmcp::handler::server::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CancelledNotificationParam, CustomRequest, CustomResult,
    ErrorCode, ErrorData, Implementation, ListToolsResult, PaginatedRequestParams, ServerCapabilities,
    ServerConfig, Tool,
};
use rmcp::service::{NotificationContext, RequestContext};
use serde_json::{Value, json};
use std::sync::Arc;

/// See the module.
pub(super) struct Server {
    shared: Arc<Shared>,
    tools: Vec<Tool>,
}

impl Server {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let tools = catalog::tools(shared.reach());
        Self { shared, tools }
    }

    async fn answer(&self, name: &str, arguments: Members, call: Call, client: Option<&str>) -> Answer {
        let shared = &self.shared;
        match name {
            "whoami" => return shared.whoami(client).await,
            "tasks_list" => return shared.list_tasks(parse(arguments)?).await,
            "task_status" => return shared.task_status(parse(arguments)?).await,
            "task_register" => return shared.register(parse(arguments)?).await,
            "task_control" => return shared.control_task(parse(arguments)?).await,
            "locks_list" => return shared.list_locks(parse(arguments)?).await,
            _ => {}
        }
        // The others act on leases: first it must be known whose.
        let scope = shared.scope(client).await?;
        match name {
            "node_acquire" => shared.acquire_node(scope, &call, parse(arguments)?).await,
            "node_heartbeat" => shared.heartbeat_node(parse(arguments)?).await,
            "node_event" => shared.note_event(parse(arguments)?).await,
            "node_complete" => shared.complete_node(parse(arguments)?).await,
            "node_fail" => shared.fail_node(parse(arguments)?).await,
            "node_release" => shared.give_node_back(parse(arguments)?).await,
            "lock_acquire" => shared.acquire_lock(scope, &call, parse(arguments)?).await,
            "lock_release" => shared.give_lock_back(parse(arguments)?).await,
            _ => Err(Refusal::arguments(format!("there is no tool {name:?}"))),
        }
    }
}

impl Shared {
    async fn whoami(&self, client: Option<&str>) -> Answer {
        // First, because it waits for a daemon that is being restarted.
        let asked: Result<WhoAmI, Refusal> = self.daemon.ask(Method::WhoAmI, &NoParams {}, Again::Yes).await;
        if asked.is_ok() {
            keeper::look(&self.daemon, &self.held).await;
        }
        let scope = self.scope(client).await;
        let is_in_session = scope.as_ref().is_ok_and(|scope| scope.session.is_some());
        let holds: Vec<Value> = self.held.all().iter().map(Lease::shown).collect();
        let mut shown = json!({ "holds": holds });
        match scope {
            Ok(scope) => {
                shown["owner"] = scope.owner.as_str().into();
                if let Some(session) = scope.session {
                    shown["session_id"] = json!(session.session_id);
                }
            }
            Err(refusal) => shown["problem"] = refusal.message.into(),
        }
        shown["daemon"] = match asked {
            // What the daemon lets this process do is not what these tools do for an agent.
            Ok(_) if is_in_session => json!({
                "answers": true,
                "role": "session",
                "because": "these tools do what is its session's business",
            }),
            Ok(me) => json!({ "answers": true, "role": me.role, "because": me.because }),
            Err(refusal) => json!({
                "answers": false,
                "socket": self.daemon.socket(),
                "message": refusal.message,
                "next": refusal.next,
            }),
        };
        Ok(members(shown))
    }
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(
                Implementation::new("agentd", env!("CARGO_PKG_VERSION"))
                    .with_title("agentd: tasks, leases, locks"),
            )
            .with_instructions(catalog::INSTRUCTIONS)
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.tools.clone()))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.tools.iter().find(|tool| tool.name == name).cloned()
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        if !self.tools.iter().any(|tool| tool.name == request.name) {
            let names: Vec<&str> = self.tools.iter().map(|tool| tool.name.as_ref()).collect();
            let mut name = request.name.into_owned();
            super::answer::shorten(&mut name, 64);
            let message = format!("there is no tool {name:?}; there are {}", names.join(", "));
            return Err(ErrorData::invalid_params(message, None));
        }
        self.shared.held.called(&context.id);
        let client = context.client_info().map(|client| client.name);
        let call = Call {
            progress: context.meta.get_progress_token(),
            id: context.id,
            cancelled: context.ct,
            peer: context.peer,
        };
        let arguments = request.arguments.unwrap_or_default();
        let answer = Box::pin(self.answer(&request.name, arguments, call, client.as_deref())).await;
        Ok(tool_result(answer, self.shared.held.notices()).into())
    }

    // The client has lost interest and will not read the answer, which may be on its way already: so whatever that
    // call acquired goes back.
    async fn on_cancelled(&self, cancelled: CancelledNotificationParam, _: NotificationContext<RoleServer>) {
        if let Some(id) = cancelled.request_id
            && let Some(lease) = self.shared.held.take_granted_by(&id)
        {
            keeper::undo(&self.shared.daemon, &lease).await;
        }
    }

    // What the SDK cannot make sense of comes here, too.
    async fn on_custom_request(
        &self,
        request: CustomRequest,
        _: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        let known = [
            "initialize",
            "tools/call",
            "tools/list",
            "server/discover",
            "ping",
        ];
        if known.contains(&request.method.as_str()) {
            let message = format!(
                "the params of {} do not have the shape that the protocol gives them",
                request.method
            );
            return Err(ErrorData::invalid_params(message, None));
        }
        let mut method = request.method;
        super::answer::shorten(&mut method, 64);
        Err(ErrorData::new(
            ErrorCode::METHOD_NOT_FOUND,
            format!("there is no method {method:?} here: only tools are served"),
            None,
        ))
    }
}
