// Entry point of the reviewers' pages.
import { open } from "../entry";
import { ReviewPage } from "./ReviewPage";
import "./review.css";

open((account, lost) => <ReviewPage key={account.csrfToken} account={account} lost={lost} />);
