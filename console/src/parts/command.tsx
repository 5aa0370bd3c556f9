// A command line, whole, with a button that copies it.
import { useState } from "preact/hooks";

export function Command({ text }: { text: string }) {
  const [status, setStatus] = useState("");
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setStatus("copied");
    } catch {
      setStatus("This browser copies nothing here: select the text."); // a page without TLS has no clipboard
    }
  };
  return (
    <span class="act command">
      <code>{text}</code>
      <button type="button" onClick={copy} aria-label={`Copy: ${text}`}>
        Copy
      </button>
      <span role="status">{status}</span>
    </span>
  );
}
