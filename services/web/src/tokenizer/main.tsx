// Entry point of the tokenizer page. It needs no session, because it calls no API.
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { TokenizerPage } from "./TokenizerPage";
import "../styles.css";
import "./tokenizer.css";

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <TokenizerPage />
  </StrictMode>,
);
