// Use: what the tenant has used of its quotas, and who may do what. For the operator: workers, queues and all tenants.

import { html, Tabs, useTitle } from "../ui.js";
import { Audit } from "./use/audit.js";
import { Keys } from "./use/keys.js";
import { Quotas, Retention } from "./use/quotas.js";
import { Service } from "./use/service.js";
import { Shares } from "./use/shares.js";
import { Tenants } from "./use/tenants.js";
import { Webhooks } from "./use/webhooks.js";
import { Workers } from "./use/workers.js";

const PARTS = { quotas: Quotas, keys: Keys, shares: Shares, webhooks: Webhooks, retention: Retention, audit: Audit, workers: Workers, tenants: Tenants, service: Service };

export default function Use({ route, caller }) {
  useTitle("Usage and sharing");
  const isAdmin = !caller || caller.scopes.includes("admin");
  const current = PARTS[route.query.tab] ? route.query.tab : "quotas";
  // A tab that an address names stands among them; it says itself which key it needs.
  const tabs = [["quotas", "Quotas", true], ["shares", "Shared links", true], ["webhooks", "Webhooks", true], ["retention", "Retention", isAdmin], ["keys", "Keys", isAdmin],
    ["audit", "Who did what", isAdmin], ["workers", "Workers", true], ["tenants", "Tenants", caller?.is_operator], ["service", "Checks", true]].filter(([name, , may]) => may || name === current);
  const Part = PARTS[current];
  return html`<h1>Usage and sharing</h1><${Tabs} tabs=${tabs} current=${current} to="/use" /><${Part} key=${current} route=${route} caller=${caller} />`;
}
