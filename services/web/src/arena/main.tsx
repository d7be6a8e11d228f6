// Entry point of the arena.
import { open } from "../entry";
import { ArenaPage } from "./ArenaPage";

open((account, lost) => <ArenaPage key={account.csrfToken} account={account} lost={lost} />);
