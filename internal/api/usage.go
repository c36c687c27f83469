package api

// Usage is how full a filesystem is for programs that are not root's. The zero value
// is: it is not known.
type Usage struct {
	Used      int64 `json:"used,omitempty"` // bytes
	Free      int64 `json:"free,omitempty"` // bytes
	Files     int64 `json:"files,omitempty"`
	FilesFree int64 `json:"filesFree,omitempty"`
}

// FullBelow is how little free space makes a volume full, in bytes: PostgreSQL writes
// its log in files of 16 MiB, and a server that cannot make the next one ends. A
// server that has failed to has given back what it had of it, so that there is always
// some space left. On a volume so small that this is much, a tenth counts.
const FullBelow = 20 << 20

// fullBelowFiles is the same for the number of files.
const fullBelowFiles = 16

// Known tells whether the filesystem was measured.
func (u Usage) Known() bool { return u.Used+u.Free > 0 }

// Size is that of the filesystem without what is kept for root, in bytes.
func (u Usage) Size() int64 { return u.Used + u.Free }

// Percent of the space that is in use.
func (u Usage) Percent() float64 { return percent(u.Used, u.Size()) }

// FilesPercent is how many of the files that there can be there are.
func (u Usage) FilesPercent() float64 { return percent(u.Files-u.FilesFree, u.Files) }

func percent(part, whole int64) float64 {
	if whole <= 0 {
		return 0
	}
	return 100 * float64(part) / float64(whole)
}

// Full tells whether a database can write no more. was: it could not; it then takes
// half as much again until it can, so that the answer does not change all the time.
func (u Usage) Full(was bool) bool {
	if !u.Known() {
		return false
	}
	bytes, files := min(FullBelow, u.Size()/10), int64(fullBelowFiles)
	if was {
		bytes, files = bytes*3/2, files*3/2
	}
	return u.Free < bytes || u.Files > 0 && u.FilesFree < files
}
