/** What became of a desktop. */
export type State =
  /** Not connected yet. */
  | "connecting"
  /** Shown, and live. */
  | "on"
  /** The connection was lost, and is being made again. The last picture stays, greyed. */
  | "lost"
  /** The guest has no screen at present. */
  | "gone"
  /** The daemon has ended it, or does not admit the token. `why` says more. */
  | "ended" | "forbidden"
  /** The frame does not answer: the daemon is not there, or does not allow this page's origin. */
  | "refused"
  /** After `close`. */
  | "closed"
  /** The guest has no screen, or nothing is watched. */
  | "idle";

export interface Settings {
  /** "auto", "lossless", "off", or a bit rate such as "2M". */
  picture?: string;
  /** Fit the frame, show pixel by pixel, or ask the guest for a screen of the frame's size. */
  scale?: "fit" | "actual" | "guest";
  /** Play the guest's sound. Browsers begin that only after a click or key; the frame then waits for one. */
  sound?: boolean;
  /** Show the tools, which come down at the upper edge where a short tab is. True unless it is set. */
  tools?: boolean;
}

/** Why it is in its state. */
export type Code =
  | ""
  /** The token is wrong, has expired or was revoked: fetch another. */
  | "token"
  /** The token may not watch the guest. */
  | "rights"
  /** There is no such guest, or the token may not see it. */
  | "guest"
  /** The daemon does not answer, or has ended the connection. */
  | "daemon"
  /** The guest's machine is not reached. */
  | "machine"
  /** Another viewer of the machine's own server has displaced Millrace. */
  | "displaced"
  /** The guest has no screen. */
  | "screen"
  /** The browser is too old. */
  | "browser"
  /** The daemon does not answer, or does not allow pages of this origin. */
  | "origin";

export interface Options {
  /** The daemon's address and the guest's name: "https://HOST:PORT/GUEST". */
  url: string;
  /** A token with the right to watch the guest, and for keyboard and sound to type and hear. */
  token: string;
  /** The frame is added to this element, and fills it. */
  element: Element;
  settings?: Settings;
}

export interface MillraceEvents {
  /** Told when one of them changes. */
  state: CustomEvent<{ state: State; why: string; code: Code }>;
  size: CustomEvent<{ width: number; height: number }>;
  keyboard: CustomEvent<{ mine: boolean; who: string }>;
  sound: CustomEvent<{ plays: boolean; why: string }>;
  /** The daemon refused something, such as a picture that it can't make or the guest's clipboard. */
  error: CustomEvent<{ why: string }>;
}

/** A guest's desktop in the page. */
export class Millrace extends EventTarget {
  constructor(options: Options);
  readonly guest: string;
  readonly state: State;
  /** Why it is in that state, for people; "" if there is nothing to say. */
  readonly why: string;
  /** The same for programs; "" if there is nothing to say. */
  readonly code: Code;
  /** The size of the screen in pixels, null until it is known. */
  readonly size: { width: number; height: number } | null;
  /** Whether this frame has the guest's keyboard, and who has it otherwise; "" for nobody. */
  readonly keyboard: { mine: boolean; who: string };
  readonly frame: HTMLIFrameElement;
  /** Change settings; those that are not named stay as they are. Throws a TypeError for one that there is not, or that can't be so. */
  set(settings: Settings): void;
  /** Fill the whole screen; to be called in answer to a click or key. */
  fullscreen(): Promise<void>;
  /** Give it the keyboard's focus. */
  focus(): void;
  /** End it, and remove it from the page. */
  close(): void;
  addEventListener<K extends keyof MillraceEvents>(
    type: K, listener: (event: MillraceEvents[K]) => void, options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string, listener: EventListenerOrEventListenerObject | null, options?: boolean | AddEventListenerOptions,
  ): void;
}
