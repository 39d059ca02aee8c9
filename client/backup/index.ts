/** Backups: made, checked with and without keys, restored, and an export that needs none of this code to be read. */
export { backup, type BackupOptions, type BackupReport } from './backup.ts'
export { exportAll, type ExportReport } from './export.ts'
export { restore, type RestoreOptions, type RestoreReport } from './restore.ts'
export { verifyBackup, type VerifyOptions, type VerifyReport } from './verify.ts'
