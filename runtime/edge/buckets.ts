/**
 * Token buckets for what is expensive: hellos (PROTOCOL 2.2, DoS: a quote each), requests to vendors. One for each
 * source and one for all. Sessions that are open do not pass here.
 */
import { isIPv6 } from 'node:net'

export type Rate = Readonly<{ burst: number; perSecond: number }>

/** What a household behind one address needs when all its devices wake up at once. */
export const PER_SOURCE: Rate = { burst: 32, perSecond: 8 }
/** What the quoting device can do without the open sessions noticing. */
export const GLOBAL: Rate = { burst: 64, perSecond: 16 }
/** Sources that are remembered; beyond, the longest unseen is forgotten and the bucket for all still holds. */
export const MAX_SOURCES = 4096

type Level = { tokens: number; at: number }

/** Seconds until a token is there, 0 if it is there now. */
function wait(level: Level, rate: Rate, now: number): number {
  level.tokens = Math.min(rate.burst, level.tokens + (Math.max(0, now - level.at) / 1000) * rate.perSecond)
  level.at = now
  return level.tokens >= 1 ? 0 : (1 - level.tokens) / rate.perSecond
}

/** A network of one customer: a /64 of IPv6 is handed out as freely as one address of IPv4. */
export function sourceOf(address: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1]
  if (mapped !== undefined) return mapped
  if (!isIPv6(address)) return address
  const [head = '', tail] = (address.split('%', 1)[0] ?? '').split('::')
  const groups = head === '' ? [] : head.split(':')
  const after = tail === undefined || tail === '' ? [] : tail.split(':')
  if (tail !== undefined) groups.push(...Array.from({ length: 8 - groups.length - after.length }, () => '0'), ...after)
  return `${groups.slice(0, 4).join(':')}::/64`
}

export class Buckets {
  readonly #now: () => number
  readonly #sources = new Map<string, Level>()
  readonly #all: Level
  readonly #perSource: Rate
  readonly #global: Rate
  refused = 0

  /** `now` in milliseconds, monotonic. */
  constructor(now: () => number, perSource = PER_SOURCE, global = GLOBAL) {
    this.#now = now
    this.#perSource = perSource
    this.#global = global
    this.#all = { tokens: global.burst, at: now() }
  }

  get sources(): number {
    return this.#sources.size
  }

  /** Takes a token. Returns 0, or after how many whole seconds to try again. */
  take(address: string): number {
    const now = this.#now()
    const source = sourceOf(address)
    const level = this.#sources.get(source) ?? { tokens: this.#perSource.burst, at: now }
    this.#sources.delete(source)
    this.#sources.set(source, level) // most recently seen last
    if (this.#sources.size > MAX_SOURCES) this.#sources.delete(this.#sources.keys().next().value as string)
    // The source first: a flooder is stopped by a bucket of its own and does not empty everybody's.
    const seconds = wait(level, this.#perSource, now) || wait(this.#all, this.#global, now)
    if (seconds > 0) {
      this.refused++
      return Math.ceil(seconds)
    }
    level.tokens--
    this.#all.tokens--
    return 0
  }
}
