// Entry point of the chat.
import { App } from "./App";
import { open } from "./entry";

open((account, lost) => <App key={account.csrfToken} account={account} lost={lost} />);
