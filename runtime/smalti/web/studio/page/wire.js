// The socket to the server. socket.py says what frames look like.
const FIRST_MS = 300, SLOWEST_MS = 4000, LOADING_MS = 400;
const ENDED = new Set([1001, 1012]); // what a server says that ends

/** Return a frame: the header's length, the header, and files behind it as they are. */
export function packed(header, files = []) {
  const named = files.map(([name, blob]) => [name, blob.size]);
  const text = new TextEncoder().encode(JSON.stringify({ ...header, files: named }));
  const length = new DataView(new ArrayBuffer(4));
  length.setUint32(0, text.length, true);
  return new Blob([length, text, ...files.map(([, blob]) => blob)]);
}

/** Return the header of a frame, and its files as bytes. */
export function unpacked(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let place = 4 + length;
  const files = header.files.map(([, size]) => {
    const bytes = new Uint8Array(buffer, place, size);
    place += size;
    return bytes;
  });
  return { header, files };
}

/**
 * Keeps a connection, and finds it again when it is lost.
 *
 * `onstate(state, capabilities)` is told: connecting, loading, ready, lost, ended, foreign. `onframe(header, files)` is
 * told what the server sends.
 */
export class Link {
  constructor(onstate, onframe) {
    this.onstate = onstate;
    this.onframe = onframe;
    this.state = "connecting";
    this.capabilities = null;
    this.socket = null;
    this.wait = FIRST_MS;
    this.timer = 0;
    addEventListener("online", () => this.look());
    this.look();
  }

  /** Ask what the server can do, and connect; come again where it is not ready. */
  async look() {
    clearTimeout(this.timer);
    let answer;
    try {
      answer = await fetch("/api/capabilities", { headers: { accept: "application/json" } });
    } catch {
      this.#tell(this.state === "ended" ? "ended" : this.state === "connecting" ? "connecting" : "lost");
      return this.#again();
    }
    if (answer.status === 401 || answer.status === 403) {
      this.#tell("foreign");
      return this.#again(SLOWEST_MS);
    }
    if (!answer.ok) return this.#again();
    this.capabilities = await answer.json();
    if (this.capabilities.draining) {
      this.#tell("ended");
      return this.#again();
    }
    if (!this.capabilities.bundles.some((bundle) => bundle.ready)) {
      this.#tell("loading");
      return this.#again(LOADING_MS);
    }
    this.#connect();
    if (this.capabilities.bundles.some((bundle) => !bundle.ready)) this.#again(LOADING_MS * 3);
  }

  /** Send a frame. Return whether there is a connection. */
  send(header, files) {
    if (this.socket?.readyState !== WebSocket.OPEN) return false;
    this.socket.send(packed(header, files));
    return true;
  }

  #connect() {
    if (this.socket && this.socket.readyState <= WebSocket.OPEN) {
      if (this.socket.readyState === WebSocket.OPEN) this.#tell("ready", true);
      return;
    }
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/studio/socket`);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => { this.wait = FIRST_MS; this.#tell("ready", true); };
    socket.onmessage = (event) => { const { header, files } = unpacked(event.data); this.onframe(header, files); };
    socket.onclose = (event) => {
      if (socket !== this.socket) return;
      this.socket = null;
      this.#tell(ENDED.has(event.code) ? "ended" : "lost");
      this.#again();
    };
    this.socket = socket;
  }

  #again(wait = this.wait) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.look(), wait);
    this.wait = Math.min(SLOWEST_MS, this.wait * 1.6);
  }

  #tell(state, always = false) {
    if (state === this.state && !always) return;
    this.state = state;
    this.onstate(state, this.capabilities);
  }
}
