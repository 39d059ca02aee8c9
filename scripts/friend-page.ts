// The friend's page as one file: script and style inside it, each named by its hash, and nothing else allowed.
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { browserBundle } from './browser-bundle.ts'

const root = resolve(import.meta.dirname, '..')
const style = 'client/web/friend/style.css'

const source = (text: string) => `'sha256-${createHash('sha256').update(text).digest('base64')}'`

/** The same sources give the same bytes anywhere. `inputs`: what went into it. */
export async function friendPage(): Promise<{ output: string; inputs: string[] }> {
  const entry = { file: join(root, 'client/web/friend/main.ts') }
  const { code, inputs } = await browserBundle(entry, { format: 'iife', minify: true })
  const script = new TextDecoder().decode(code)
  const css = readFileSync(join(root, style), 'utf8')
  const policy = [
    "default-src 'none'",
    `script-src ${source(script)}`,
    `style-src ${source(css)}`,
    "base-uri 'none'",
    "form-action 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
  ].join('; ')
  const output = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Help a friend get their keys back</title>
<style>${css}</style>
</head>
<body>
<main><noscript><p>This page needs JavaScript. It talks to nobody, and works without a network.</p></noscript></main>
<script>${script}</script>
</body>
</html>
`
  return { output, inputs: [...inputs, style, 'scripts/friend-page.ts'] }
}
