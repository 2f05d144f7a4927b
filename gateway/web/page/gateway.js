/**
 * The gateway's HTTP pages, and the token, which lives in this object's private field alone: it is put
 * into a header or a subprotocol entry, never into a URL, a cookie or a storage.
 */

const TOKEN = /^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*$/; // RFC 7515 section 7.1
const ANSWER_TIME = 20_000; // milliseconds

/** Something that was refused, or is not there: a code for the page, a sentence for people. */
export class Refusal extends Error {
  constructor(code, sentence) {
    super(sentence);
    this.code = code;
  }
}

export class Gateway {
  #token = "";

  /** Take a token as people paste it. Throws a Refusal for what is none. */
  constructor(pasted) {
    const token = pasted.trim().replace(/^(?:authorization:\s*)?bearer\s+/i, "");
    if (token === "") throw new Refusal("no_token", "Paste a token first.");
    if (!TOKEN.test(token)) {
      throw new Refusal("no_token", "This is no token: it has three parts with dots between them and no spaces.");
    }
    this.#token = token;
    this.expires = expiry(token);
  }

  /** What a WebSocket offers: the subprotocol that is spoken, and the token. */
  get protocols() {
    return ["vmgate.v1", `vmgate.token.${this.#token}`];
  }

  get expired() {
    return Date.now() >= this.expires;
  }

  /** The instances that the token may see. Throws a Refusal. */
  async instances() {
    const answer = await this.#get("instances");
    if (answer.status !== 200) throw await this.#refusal(answer);
    return answer.json();
  }

  /** What sessions showed, from behind that file on. Throws a Refusal. */
  async recordings(path, behind) {
    const answer = await this.#get(behind ? `${path}?behind=${encodeURIComponent(behind)}` : path);
    if (answer.status !== 200) throw await this.#refusal(answer);
    return answer.json();
  }

  /** So many bytes of a recording from there on, and how many it has in all. Throws a Refusal. */
  async part(path, begin, most) {
    const answer = await this.#get(path, { Range: `bytes=${begin}-${begin + most - 1}` });
    if (answer.status === 416) return { bytes: new Uint8Array(), size: begin };
    if (answer.status !== 206) throw await this.#refusal(answer);
    const size = Number(answer.headers.get("content-range").split("/")[1]);
    return { bytes: new Uint8Array(await answer.arrayBuffer()), size };
  }

  /**
   * Why a WebSocket was refused: a browser does not tell, so the same path is asked as a page, which goes
   * through the same checks up to the upgrade itself (426). Returns a Refusal, never throws.
   */
  async whyRefused(path) {
    try {
      const answer = await this.#get(path);
      if (answer.status !== 426) return await this.#refusal(answer);
      return new Refusal(
        "foreign",
        `The gateway takes no terminal from ${location.origin}, or something on the way does not pass WebSockets on. ` +
          "Its operator can allow this address in [http] origins.",
      );
    } catch (refusal) {
      return refusal;
    }
  }

  async #get(path, headers = {}) {
    try {
      return await fetch(new URL(path, document.baseURI), {
        headers: { Authorization: `Bearer ${this.#token}`, ...headers },
        cache: "no-store",
        credentials: "omit",
        redirect: "error",
        signal: AbortSignal.timeout(ANSWER_TIME),
      });
    } catch {
      throw new Refusal("gone", "The gateway does not answer. It may have stopped, or the network is down.");
    }
  }

  async #refusal(answer) {
    let told = {};
    try {
      told = await answer.json();
    } catch {
      // A proxy's own page: its status says enough.
    }
    const words = typeof told.message === "string" ? told.message : "";
    switch (answer.status) {
      case 401:
        if (this.expired) {
          return new Refusal("expired", `This token expired at ${clock(this.expires)}. Sign in with a new one.`);
        }
        return new Refusal("refused", `The gateway does not accept this token (${words || "401"}).`);
      case 403:
        return new Refusal("forbidden", `This token does not allow that: ${words || "403"}.`);
      case 404:
        return new Refusal("not_found", "There is no such instance any more.");
      case 409:
        return new Refusal("invalid_state", sentence(words) || "The instance is not running.");
      default:
        return new Refusal("failed", `The gateway answered ${answer.status}${words && `: ${words}`}.`);
    }
  }
}

/** When a token expires, in milliseconds since 1970, or Infinity. What it says is for the page's words alone. */
function expiry(token) {
  try {
    const payload = JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")));
    return typeof payload.exp === "number" ? payload.exp * 1000 : Infinity;
  } catch {
    return Infinity;
  }
}

/** A moment as this reader writes it. */
export function clock(moment) {
  return new Date(moment).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

/** Words as a sentence. */
export function sentence(words) {
  const text = words.trim();
  return text && text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}
