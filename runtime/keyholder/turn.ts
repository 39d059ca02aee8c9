/** One commit of the log may be outstanding, the api's or the keyholder's own; whoever comes next waits here. */
export class Turn {
  #taken = false
  #waiting: ((mine: boolean) => void)[] = []

  get taken(): boolean {
    return this.#taken
  }

  /** Resolves with true when it is the caller's turn, with false when `giveUp` settled first. */
  take(giveUp: Promise<unknown>): Promise<boolean> {
    if (!this.#taken) {
      this.#taken = true
      return Promise.resolve(true)
    }
    const { promise, resolve } = Promise.withResolvers<boolean>()
    this.#waiting.push(resolve)
    void giveUp.then(() => {
      this.#waiting = this.#waiting.filter(each => each !== resolve)
      resolve(false)
    })
    return promise
  }

  pass(): void {
    const next = this.#waiting.shift()
    if (next === undefined) this.#taken = false
    else next(true)
  }
}
