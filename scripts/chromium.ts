// A page of the system's own Chromium, for what is tested and measured in a browser.
import { globSync, mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type BrowserContext, type BrowserContextOptions, chromium, type Page } from 'playwright-core'

const flags = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]

export type OpenPage = Readonly<{ page: Page; version: string; close: () => Promise<void> }>

/**
 * A browser whose profile lasts as long as its folder. Throws where there is no browser.
 * @param more further flags
 */
export function openProfile(
  folder: string,
  options: BrowserContextOptions = {},
  more: readonly string[] = [],
): Promise<BrowserContext> {
  const executablePath = globSync('/usr/bin/{chromium,google-chrome}')[0]
  if (executablePath === undefined) throw new Error('no browser: apt-get install chromium')
  return chromium.launchPersistentContext(folder, {
    ...options,
    executablePath,
    headless: true,
    args: [...flags, ...more],
  })
}

/** Its children may still be writing. */
export const removeProfile = (folder: string): void =>
  rmSync(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 })

/** An empty page on localhost: crypto.subtle exists on secure origins only. Throws where there is no browser. */
export async function openPage(): Promise<OpenPage> {
  const server = createServer((_, response) => {
    response.setHeader('content-type', 'text/html')
    response.end('<!doctype html><title>test</title>')
  }).listen(0, '127.0.0.1')
  await new Promise(done => server.once('listening', done))
  const profile = mkdtempSync(join(tmpdir(), 'chromium-'))
  const context = await openProfile(profile)
  const page = await context.newPage()
  await page.goto(`http://localhost:${(server.address() as AddressInfo).port}/`)
  return {
    page,
    version:
      context.browser()?.version() ??
      (await page.evaluate(() => /Chrome\/([\d.]+)/.exec(navigator.userAgent)?.[1] ?? '')),
    close: async () => {
      await context.close()
      server.close()
      removeProfile(profile)
    },
  }
}
