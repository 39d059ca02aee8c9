/** Time as the session needs it. An argument, so that tests own it. */
export type Clock = Readonly<{
  /** Never set back or forward; for durations. */
  monotonicSeconds(): number
  /** The device's own clock, in whole seconds since 1970. */
  unixSeconds(): number
  /** Ends early, with the signal's reason thrown, when that aborts. */
  sleep(seconds: number, signal?: AbortSignal | null): Promise<void>
}>

export const systemClock: Clock = {
  monotonicSeconds: () => performance.now() / 1000,
  unixSeconds: () => Math.floor(Date.now() / 1000),
  sleep: (seconds, signal) =>
    new Promise((resolve, reject) => {
      const stop = () => {
        clearTimeout(timer)
        reject(signal?.reason as Error)
      }
      const timer = setTimeout(() => {
        signal?.removeEventListener('abort', stop)
        resolve()
      }, seconds * 1000)
      if (signal?.aborted) stop()
      else signal?.addEventListener('abort', stop, { once: true })
    }),
}
