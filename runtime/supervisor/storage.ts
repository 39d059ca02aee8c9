/** Where sealed rows are kept when there is no encrypted disk: a private PostgreSQL, or a server of the user's own. */
import type { ServerOptions } from '../store/server.ts'
import { type Server, startServer } from '../store/server.ts'
import type { Launcher } from './launcher.ts'
import type { Storage } from './supervisor.ts'

/** The schema is brought up by a process of its own: the supervisor speaks no database protocol. */
export async function migrate(launcher: Launcher): Promise<void> {
  if (!(await launcher.start('migrate', []).ended)) throw new Error('the schema could not be brought up')
}

export function privateServer(launcher: Launcher, options: ServerOptions): Storage {
  let server: Server | null = null
  return {
    async open(_diskKey, lost) {
      const started = await startServer(options)
      server = started
      void started.ended.then(() => {
        if (server === started) lost()
      })
      try {
        await migrate(launcher)
      } catch (error) {
        server = null
        await started.stop()
        throw error
      }
    },
    async close() {
      const running = server
      server = null
      await running?.stop()
    },
  }
}

export const outsideServer = (launcher: Launcher): Storage => ({
  open: () => migrate(launcher),
  close: async () => {},
})
