// A page of several views besides the chat: its header, and the view that the address names.
import { useEffect, useState, type ReactNode } from "react";
import "./views.css";

/**
 * Return the view that the fragment of the address names, also after it changes.
 *
 * @param names Names of the views; the first is shown without a fragment.
 */
export function useView<View extends string>(names: readonly [View, ...View[]]): View {
  const [fragment, setFragment] = useState(location.hash.slice(1));
  useEffect(() => {
    const changed = () => setFragment(location.hash.slice(1));
    window.addEventListener("hashchange", changed);
    return () => window.removeEventListener("hashchange", changed);
  }, []);
  return names.find((name) => name === fragment) ?? names[0];
}

interface Props {
  /** Name of the page for screen readers. */
  label: string;
  /** Name and title of each view. */
  views: Record<string, string>;
  view: string;
  children: ReactNode;
}

export function ViewsPage({ label, views, view, children }: Props) {
  return (
    <div className="views-page">
      <header>
        <a className="brand" href="./">
          <img src="./icon.svg" alt="" width="26" height="26" />
          <strong>Thumbwheel</strong>
        </a>
        <nav aria-label={label}>
          {Object.entries(views).map(([name, title]) => (
            <a key={name} href={`#${name}`} aria-current={name === view ? "page" : undefined}>{title}</a>
          ))}
        </nav>
      </header>
      {children}
    </div>
  );
}
