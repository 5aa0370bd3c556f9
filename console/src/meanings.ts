// What the words of decisions mean; docs/reading-why.md has all words.
const MEANINGS: Record<string, string> = {
  turn: "it already had the earlier pieces of this turn",
  session: "it had earlier jobs of this session",
  load: "it had the smallest share of its slots in use",
  last: "it had the previous attempt too, and no other node could take the job",
  fill: "it had a free slot, and this job was the first in the queue of those that it can process",
  NO_POOL_FOR_LANG_PAIR: "no node declares these languages",
  NO_AVAILABLE_NODE: "all nodes that declare them are busy",
  retry_backoff: "an attempt failed, and the job pauses before the next one",
};

/** What a rule or a reason means; empty if the word is not known. */
export const meaningOf = (word: string): string => MEANINGS[word] ?? "";
