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
  const tabs = [["quotas", "Quotas"], ["shares", "Shared links"], ["webhooks", "Webhooks"],
    ...(isAdmin ? [["retention", "Retention"], ["keys", "Keys"], ["audit", "Who did what"]] : []), ["workers", "Workers"], ...(caller?.is_operator ? [["tenants", "Tenants"]] : []), ["service", "Checks"]];
  const current = PARTS[route.query.tab] ? route.query.tab : "quotas";
  const Part = PARTS[current];
  return html`<h1>Usage and sharing</h1><${Tabs} tabs=${tabs} current=${current} to="/use" /><${Part} key=${current} route=${route} caller=${caller} />`;
}
