// Pages of reviewers: the next item, disagreements of reviewers, and their agreement.
import { useMemo } from "react";
import { Api } from "../api";
import { useView, ViewsPage } from "../ViewsPage";
import type { Account } from "../wire";
import { AgreementView } from "./AgreementView";
import { Disagreements } from "./Disagreements";
import { Drafts } from "./draft";
import { NextItem } from "./NextItem";
import { NO_SCOPE } from "./problems";

const VIEWS = { review: "Review", disagreements: "Disagreements", agreement: "Agreement" };

interface Props {
  account: Account;
  /** Called if the session has ended, or was replaced by another tab. */
  lost: () => void;
}

export function ReviewPage({ account, lost }: Props) {
  const api = useMemo(() => new Api(account.csrfToken ?? "", lost), [account, lost]);
  const owner = `${account.tenant}/${account.user}`;
  const drafts = useMemo(() => ({ review: new Drafts(owner, "review"), resolution: new Drafts(owner, "resolution") }), [owner]);
  const view = useView(["review", "disagreements", "agreement"]);
  const mayReview = account.scopes.includes("review");
  return (
    <ViewsPage label="Reviews" views={VIEWS} view={view}>
      <main>
        {!mayReview && <p className="problem" role="alert">{NO_SCOPE}</p>}
        {/* Drafts are kept in the session storage, so that a view can be left. */}
        {mayReview && view === "review" && <NextItem api={api} drafts={drafts.review} />}
        {mayReview && view === "disagreements" && <Disagreements api={api} drafts={drafts.resolution} />}
        {mayReview && view === "agreement" && <AgreementView api={api} />}
      </main>
    </ViewsPage>
  );
}
