import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import test from 'ava'
import { offences } from '../../scripts/layering.ts'

function check(files: Record<string, string>): string[] {
  const root = mkdtempSync(join(tmpdir(), 'layering-'))
  try {
    for (const [path, text] of Object.entries(files)) {
      mkdirSync(dirname(join(root, path)), { recursive: true })
      writeFileSync(join(root, path), text)
    }
    return offences(root)
  } finally {
    rmSync(root, { recursive: true })
  }
}

const allowed: Record<string, string> = {
  'attestation/appraise.ts': "import { a } from './snp/report.ts'\nimport { sha384 } from '@noble/hashes/sha2.js'\n",
  'attestation/wire.ts': "// import x from 'node:fs'\n/**\n * import y from '../client/z.ts'\n */\n",
  'attestation/silicon/mint.ts': "import { a } from '../snp/report.ts'\nimport './sign.ts'\n",
  'attestation/primitives/node.ts': "type C = typeof import('node:crypto')\ntype K = import('node:crypto').KeyObject\n",
  'client/index.ts':
    "import fs from 'node:fs'\nexport * from '../attestation/appraise.ts'\nimport p from '../package.json'\n",
  'runtime/main.ts': "import { appraise } from '../attestation/appraise.ts'\n",
  'scripts/security-processor.ts': "import '../attestation/silicon/mint.ts'\nimport '../runtime/main.ts'\n",
  'tests/all.test.ts': "import '../attestation/silicon/mint.ts'\nimport '../client/index.ts'\n",
}

test('the arrows of the architecture pass', t => {
  t.deepEqual(check(allowed), [])
})

const forbidden: [why: string, file: string, line: string][] = [
  ['client imports runtime', 'client/a.ts', "import { b } from '../runtime/b.ts'"],
  ['runtime imports client', 'runtime/a.ts', "export * from '../client/b.ts'"],
  ['attestation imports client', 'attestation/a.ts', "import '../client/b.ts'"],
  ['attestation imports runtime', 'attestation/a.ts', "import type { B } from '../runtime/b.ts'"],
  ['attestation imports a builtin', 'attestation/a.ts', "import fs from 'node:fs'"],
  ['attestation imports a builtin by its old name', 'attestation/a.ts', "import { createHash } from 'crypto'"],
  ['attestation imports a type of Node', 'attestation/a.ts', "import type { KeyObject } from 'node:crypto'"],
  ['attestation names a type of Node inline', 'attestation/a.ts', "type C = typeof import('node:crypto')"],
  [
    'the Node maker imports the module it should be handed',
    'attestation/primitives/node.ts',
    "import c from 'node:crypto'",
  ],
  ['the Node maker loads it late', 'attestation/primitives/node.ts', "const c = await import('node:crypto')"],
  ['attestation refers to the types of Node', 'attestation/a.ts', '/// <reference types="node" />'],
  ['attestation uses a global of Node', 'attestation/a.ts', "const a = Buffer.from('')"],
  ['appraise imports silicon', 'attestation/appraise.ts', "import '../attestation/silicon/mint.ts'"],
  ['client imports silicon', 'client/a.ts', "import '../attestation/silicon/mint.ts'"],
  ['runtime imports silicon', 'runtime/attester/a.ts', "await import('../../attestation/silicon/mint.ts')"],
  ['client imports scripts', 'client/a.ts', "import '../scripts/b.ts'"],
  ['runtime imports tests', 'runtime/a.ts', "import '../tests/b.ts'"],
  ['attestation imports tests', 'attestation/a.ts', "require('../tests/b.ts')"],
  ['client imports runtime by the name of the package', 'client/a.ts', "import 'attested-pod/runtime'"],
  ['runtime imports from outside the checkout', 'runtime/a.ts', "import '../../elsewhere/b.ts'"],
]

for (const [why, file, line] of forbidden) {
  test(`refused: ${why}`, t => {
    const found = check({ ...allowed, [file]: `// first line\n${line}\n` })
    t.is(found.length, 1, found.join('\n'))
    t.true(found[0]?.startsWith(`${file}:2: `), found[0])
  })
}

test('an import over several lines is found on the line of its name', t => {
  const found = check({ 'client/a.ts': "import {\n  b,\n  c,\n} from '../runtime/b.ts'\n" })
  t.deepEqual(found, ['client/a.ts:4: ../runtime/b.ts: client/ must not import runtime/'])
})
