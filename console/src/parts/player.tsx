// Plays the audio of an utterance, if it is still stored. The WAV is read at the first press.
import { useEffect, useState } from "preact/hooks";
import { ApiError, getBlob } from "../api";

export function Player({ session, event }: { session: string; event: string }) {
  const [source, setSource] = useState("");
  const [problem, setProblem] = useState("");
  useEffect(() => () => URL.revokeObjectURL(source), [source]);
  const load = async () => {
    setProblem("");
    try {
      setSource(URL.createObjectURL(await getBlob(`sessions/${encodeURIComponent(session)}/audio`, { event })));
    } catch (error) {
      setProblem(error instanceof ApiError ? error.message : String(error));
    }
  };
  return (
    <p class="player">
      {source ? (
        <audio controls autoplay src={source} aria-label="Audio of the utterance" />
      ) : (
        <button type="button" onClick={load}>
          Play the audio
        </button>
      )}
      <span role="status">{problem}</span>
    </p>
  );
}
