package snapshot

// Seal writes a snapshot whose body is not messages.
func (f *Files) Seal(body []byte) error {
	_, err := f.routes.write(func(w *writer) error {
		_, err := w.Write(body)
		return err
	})
	return err
}
