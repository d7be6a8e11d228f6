// Notices that questions are sent to other providers.
import type { ExternalModel, Models } from "../wire";

/** Return the notice before a battle; empty if no external model takes part. */
export function noticeOf(external: readonly ExternalModel[]): string {
  if (external.length === 0) return "";
  const developers = [...new Set(external.map(({ developer }) => developer))].sort();
  const names = new Intl.ListFormat("en", { type: "conjunction" }).format(developers);
  return `Answers may come from models of other providers (${names}). Your question is then sent to them and leaves this system. Do not enter personal or confidential data.`;
}

/** Return the developer of the external model that answers all chats; empty for an own model. */
export function providerOf({ models, external }: Models): string {
  return external.find(({ model }) => model === models[0])?.developer ?? "";
}
