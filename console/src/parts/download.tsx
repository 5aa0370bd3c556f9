// A button that downloads a file of the gateway; an error is shown instead of being saved.
import { useState } from "preact/hooks";
import { ApiError, getBlob } from "../api";

interface DownloadProps {
  text: string;
  path: string;
  query?: Record<string, string>;
  /** Name of the file. */
  file: string;
  /** Called when the file is saved. */
  onSaved?: (file: string) => void;
}

export function Download({ text, path, query, file, onSaved }: DownloadProps) {
  const [status, setStatus] = useState("");
  const download = async () => {
    setStatus("…");
    try {
      const url = URL.createObjectURL(await getBlob(path, query));
      Object.assign(document.createElement("a"), { href: url, download: file }).click();
      URL.revokeObjectURL(url);
      setStatus(`saved as ${file}`);
      onSaved?.(file);
    } catch (error) {
      setStatus(error instanceof ApiError ? error.message : String(error));
    }
  };
  return (
    <span class="act">
      <button type="button" class="download" onClick={download}>
        {text}
      </button>
      <span role="status">{status}</span>
    </span>
  );
}
